"""What Prometheus does: asks a process of kubeferry on this machine for its metrics."""

import aiohttp


async def get(port: int, path: str = "/metrics") -> tuple[int, str, str]:
    """Status, content type and body."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, response.headers["Content-Type"], await response.text()
