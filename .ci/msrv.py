"""Reads `cargo metadata` and fails where a package of the given tree asks for a newer Rust than the libraries do."""

import json
import sys


def number(version):
    parts = [int(part) for part in version.split(".")]
    return (parts + [0, 0])[:3]


def main(tree, libraries):
    packages = {(p["name"], p["version"]): p for p in json.load(sys.stdin)["packages"]}
    ours = {name: p["rust_version"] for (name, _), p in packages.items() if name in libraries}
    nameless = [name for name in libraries if not ours.get(name)]
    if nameless:
        sys.exit(f"no rust-version in: {', '.join(nameless)}")
    floor = min(ours.values(), key=number)

    wanted = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    newer = []
    for name, version in sorted(wanted):
        asks = packages[name, version.lstrip("v")]["rust_version"]
        if asks and number(asks) > number(floor):
            newer.append(f"{name} {version} asks for Rust {asks}")
    if newer:
        sys.exit(f"newer than our rust-version {floor}:\n" + "\n".join(newer))
    print(f"rust-version {floor}: none of {len(wanted)} packages asks for a newer one")


main(sys.argv[1], sys.argv[2:])
