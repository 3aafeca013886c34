"""Stands in the way of what comes to a host's data ports, and flips a bit of each connection after its first mebibyte.

Run as a program: `spoiler.py PORT`, where the kernel redirects those connections to PORT.
"""

import asyncio
import socket
import struct
import sys

SO_ORIGINAL_DST = 80
"""Of the kernel's netfilter: where a redirected connection was to go."""
HARMLESS = 1 << 20
BUFFER = 64 << 10


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    told = writer.get_extra_info("socket").getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    port, address = struct.unpack(">2xH4s8x", told)
    answers, on = await asyncio.open_connection(socket.inet_ntoa(address), port)
    await asyncio.gather(carry(reader, on, spoils=True), carry(answers, writer, spoils=False))


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, spoils: bool) -> None:
    """Carry on until either end has gone."""
    count, spoiled = 0, False
    try:
        while content := await source.read(BUFFER):
            count += len(content)
            if spoils and not spoiled and count > HARMLESS:
                content, spoiled = bytes([content[0] ^ 1]) + content[1:], True
            target.write(content)
            await target.drain()
    except ConnectionError:
        return
    finally:
        target.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(relay, "0.0.0.0", port)  # noqa: S104 - on the host's own address, where the kernel redirects to
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
