"""Writes what is generated from the models: crds/*.yaml and manifests/crds.yaml.

python hack/generate.py            write the files
python hack/generate.py --check    end with 1 if a file is not what would be written
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from kubeferry.api.model import VALIDATIONS, schema
from kubeferry.api.names import GROUP, VERSION
from kubeferry.api.resources import RESOURCES, Column, Resource

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from operator/kubeferry/api by hack/generate.py (make generate). Do not edit.\n"
# Lower bounds as pydantic writes them, `ge` and `gt` where a quantity is parsed first; all numbers are whole.
BOUNDS = {"minimum": 0, "ge": 0, "exclusiveMinimum": 1, "gt": 1}
DROPPED = {"title", "default", "$defs"}


def structural(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """A structural schema (apiextensions/v1) from pydantic's JSON schema.

    References are inlined, and `null` alternatives dropped: an absent field is written by leaving it out.
    """
    if "$ref" in node:
        target = structural(defs[node["$ref"].rpartition("/")[2]], defs)
        return target | structural({k: v for k, v in node.items() if k != "$ref"}, defs)
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        (kept,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        return structural(kept | {k: v for k, v in node.items() if k not in ("anyOf", "default")}, defs)
    out = {key: value for key, value in node.items() if key not in DROPPED}
    if (default := node.get("default")) not in (None, [], ""):
        out["default"] = default
    if least := [out.pop(key) + add for key, add in BOUNDS.items() if key in out]:
        out["minimum"] = max(least)
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "properties" in out:
        out["properties"] = {name: structural(value, defs) for name, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = structural(out[key], defs)
    return out


def printer_column(column: Column) -> dict[str, Any]:
    """One entry of additionalPrinterColumns."""
    return {"name": column.name, "type": column.type, "jsonPath": column.path} | ({"priority": 1} if column.wide else {})


def crd(resource: Resource) -> dict[str, Any]:
    """The CustomResourceDefinition of a resource."""
    properties: dict[str, Any] = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    rules = schema(resource.model).get(VALIDATIONS, [])
    for name, part in (("spec", resource.spec), ("status", resource.status)):
        if part is not None:
            whole = schema(part)
            properties[name] = structural(whole, whole.get("$defs", {}))
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [printer_column(column) for column in resource.columns],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": " ".join((resource.model.__doc__ or "").split()),
                "required": ["spec"] if _needs_spec(resource) else [],
                "properties": properties,
            }
            | ({VALIDATIONS: rules} if rules else {})
        },
    }
    if not version["schema"]["openAPIV3Schema"]["required"]:
        del version["schema"]["openAPIV3Schema"]["required"]
    if resource.status is not None:
        version["subresources"] = {"status": {}}
    if resource.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable]
    names = {"kind": resource.kind, "listKind": f"{resource.kind}List", "plural": resource.plural, "singular": resource.kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": names | {"shortNames": [resource.short_name], "categories": ["kubeferry"]},
            "versions": [version],
        },
    }


def _needs_spec(resource: Resource) -> bool:
    """Whether an object without a spec says nothing: its model has no default for it."""
    return "spec" in schema(resource.model).get("required", [])


def files() -> dict[Path, str]:
    """Every generated file, by path."""
    crds = {resource.plural: yaml.safe_dump(crd(resource), sort_keys=False, width=140, allow_unicode=True) for resource in RESOURCES}
    out = {ROOT / "crds" / f"{plural}.yaml": HEADER + text for plural, text in crds.items()}
    out[ROOT / "manifests" / "crds.yaml"] = HEADER + "---\n".join(crds.values())
    return out


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    expected = files()
    stale = [path for path, text in expected.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in sorted((ROOT / "crds").glob("*")) if path not in expected]
    for path in stale:
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is not what the models say: run `make generate` and commit it", file=sys.stderr)
        elif path in expected:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(expected[path])
            print(f"wrote {name}")
        else:
            path.unlink()
            print(f"removed {name}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
