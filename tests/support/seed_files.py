"""What a guest finds on a seed disk."""

from io import BytesIO

from pycdlib import PyCdlib


def seed_files(image: bytes) -> dict[str, str]:
    """Its files by the names that Linux sees; Windows must see the same."""
    iso = PyCdlib()
    iso.open_fp(BytesIO(image))
    try:
        assert iso.pvd.volume_identifier.rstrip() == b"cidata"
        long_names = {_name(child): _read(iso, rr_path=f"/{_name(child)}") for child in iso.list_children(rr_path="/") if _is_file(child)}
        assert long_names == {name: _read(iso, joliet_path=f"/{name}") for name in long_names}
        return long_names
    finally:
        iso.close()


def _is_file(child: object) -> bool:
    return child is not None and child.is_file()  # type: ignore[attr-defined, no-any-return]


def _name(child: object) -> str:
    return child.rock_ridge.name().decode()  # type: ignore[attr-defined, no-any-return]


def _read(iso: PyCdlib, **path: str) -> str:
    content = BytesIO()
    iso.get_file_from_iso_fp(content, **path)
    return content.getvalue().decode()
