"""The seed disk of cloud-init's NoCloud data source: a small ISO 9660 file system, found by its label.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

from io import BytesIO

import yaml
from pycdlib import PyCdlib

from kubeferry.api.domain import CloudInitSeed

LABEL = "cidata"
_ROCK_RIDGE, _JOLIET, _INTERCHANGE_LEVEL = "1.09", 3, 3
"""Long names, in lower case: Rock Ridge for Linux, Joliet for Windows."""


def seed_image(seed: CloudInitSeed, instance_id: str) -> bytes:
    """The file system with user-data, meta-data and, if the seed has network data, network-config.

    Args:
        seed: what the files hold.
        instance_id: by which cloud-init tells a new machine, which it sets up, from one that it knows: the VM's uid.
    """
    meta = {"instance-id": instance_id, "local-hostname": seed.local_hostname}
    files = {"user-data": seed.user_data, "meta-data": yaml.safe_dump(meta), "network-config": seed.network_data}
    iso, image = PyCdlib(), BytesIO()
    iso.new(interchange_level=_INTERCHANGE_LEVEL, vol_ident=LABEL, rock_ridge=_ROCK_RIDGE, joliet=_JOLIET)
    try:
        for name, text in files.items():
            if text is not None:
                content = text.encode()
                plain = name.upper().replace("-", "_")
                iso.add_fp(BytesIO(content), len(content), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}")
        iso.write_fp(image)
    finally:
        iso.close()
    return image.getvalue()
