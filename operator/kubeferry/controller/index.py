"""A relation that is looked up the other way round."""

from collections.abc import Iterable


class Index:
    """Which keys name a value: which VMs name a node, say."""

    def __init__(self) -> None:
        self._values: dict[str, frozenset[str]] = {}
        self._keys: dict[str, set[str]] = {}

    def put(self, key: str, values: Iterable[str]) -> None:
        """Let the key name these values, and no others."""
        self.remove(key)
        named = self._values[key] = frozenset(values)
        for value in named:
            self._keys.setdefault(value, set()).add(key)

    def remove(self, key: str) -> None:
        """Let the key name nothing."""
        for value in self._values.pop(key, frozenset()):
            self._keys[value].discard(key)
            if not self._keys[value]:
                del self._keys[value]

    def naming(self, value: str) -> frozenset[str]:
        """The keys that name the value."""
        return frozenset(self._keys.get(value, ()))
