"""Reads of the API server, without a process for each: what the lab polls while it waits."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from lab.certificates import Pair
from lab.steps import NotYet

READ_SECONDS = 5.0


class Api:
    """The API server at an address, as the user of a client certificate."""

    def __init__(self, address: str, port: int, authority: Path, pair: Pair) -> None:
        self._address = address
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(pair.certificate, pair.key)

    def get(self, path: str) -> bytes:
        """The body of a 200.

        Raises:
            NotYet: no answer, or another one.
        """
        connection = http.client.HTTPSConnection(self._address, self._port, context=self._context, timeout=READ_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotYet(f"GET {path}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise NotYet(f"GET {path}: {response.status} {body[:300].decode(errors='replace')}")
        return body

    def get_json(self, path: str) -> Any:
        """The body of a 200, decoded.

        Raises:
            NotYet: no answer, or another one.
        """
        return json.loads(self.get(path))
