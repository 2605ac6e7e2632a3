"""Fails where modules of a library import each other in a circle, or a room imports a higher one.

    rooms.py CRATE/src...

A module stands here for all that is below it, and is looked at among its siblings: it and its parent may know each
other, for a child often extends its parent's type. A public re-export within a room is no import. Tests are left out. The rooms are
the modules of the crate's root; `lib.rs` gives their order.
"""

import re
import sys
from pathlib import Path

PATH = re.compile(r"(?<![\w:])\$?((?:crate|self|super)(?:::\w+)+)")
USE = re.compile(r"^\s*(pub )?(?:pub\([^)]*\) )?use\s+([^;]+);", re.M)

TESTS = re.compile(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?mod \w+ \{")

COMMENT, RAW, CHARACTER, TEXT = r"//[^\n]*|/\*.*?\*/", r'r(#*)".*?"\1', r"'(?:\\.|[^\\'])'", r'"(?:[^"\\]|\\.)*"'
QUOTED = re.compile("|".join([COMMENT, RAW, CHARACTER, TEXT]), re.S)


def code(text):
    """The text without comments, literals and tests."""
    text = QUOTED.sub("", text).replace("self::super::", "super::").replace("r#", "")
    text = re.sub(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?(use|mod) [^;{]*;", "", text)
    while found := TESTS.search(text):
        end, depth = found.end(), 1
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: found.start()] + text[end:]
    return text


def expand(tree):
    """The paths of a `use` tree."""
    head, brace, rest = tree.partition("{")
    if not brace:
        return [tree]
    parts, depth, part = [], 0, ""
    for char in rest[: rest.rindex("}")] + ",":
        depth += (char == "{") - (char == "}")
        if char == "," and not depth:
            parts.append(part)
            part = ""
        else:
            part += char
    return [head + path for part in parts if part.strip() for path in expand(part.strip())]


class Crate:
    def __init__(self, source):
        self.code, self.uses, self.imports = {}, {}, {}
        for file in source.rglob("*.rs"):
            module = file.relative_to(source).with_suffix("").parts
            module = module[: -1 if module[-1] in ("mod", "lib") else None]
            if not {"tests", "properties"} & set(module):
                self.code[module] = code(file.read_text())
        for module, text in self.code.items():
            uses, self.imports[module] = self.uses.setdefault(module, {}), []
            for exported, tree in USE.findall(text):
                for path in expand(" ".join(tree.split())):
                    path, _, name = path.partition(" as ")
                    path = self.absolute(module, path.removesuffix("::self").split("::"))
                    uses[name or path[-1]] = path
                    if not exported or (module and module[:1] != tuple(path[:1])):
                        self.imports[module].append(path)

    def absolute(self, module, path):
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return [*module, *path[1:]]
        ups = sum(1 for part in path if part == "super")
        if ups:
            return [*module[: len(module) - ups], *path[ups:]]
        return [*module, *path] if (*module, path[0]) in self.code else ["", *path]

    def home(self, path, depth=0):
        """The module that defines what a path names, through re-exports; `None` if it is of another crate."""
        for length in range(len(path), -1, -1):
            module, item = tuple(path[:length]), path[length : length + 1]
            if module in self.code:
                via = self.uses[module].get(*item) if item else None
                defined = item and re.search(rf"\b(struct|enum|trait|fn|type|const|static|macro_rules!) {item[0]}\b", self.code[module])
                if via and not defined and depth < 9:
                    return self.home(via + path[length + 1 :], depth + 1)
                return None if path[:1] == [""] else module
        return None

    def arrows(self):
        """For each pair of modules, a name for which the first imports the second."""
        arrows = {}
        for module, text in self.code.items():
            paths = self.imports[module] + [self.absolute(module, path.split("::")) for path in PATH.findall(USE.sub("", text))]
            for path in paths:
                if module and path in ([], ["*"]):
                    sys.exit(f"{'::'.join(module)} imports the whole crate: name what it needs")
                home = self.home(path)
                if home is not None and home != module:
                    arrows.setdefault((module, home), path[-1])
        return arrows


def circle(graph):
    """The path of a circle, or `None`."""
    done = set()

    def visit(node, path):
        if node in path:
            return path[path.index(node) :] + [node]
        if node in done:
            return None
        for target in sorted(graph.get(node, {})):
            if found := visit(target, path + [node]):
                return found
        done.add(node)
        return None

    return next(filter(None, (visit(node, []) for node in sorted(graph))), None)


def order(source):
    """The rooms in the order that `lib.rs` gives, lowest first; empty if it gives none."""
    found = re.search(r"// Rooms, lowest first: ((?:.*\n//)*.*)", (source / "lib.rs").read_text())
    return re.findall(r"\w+", found[1]) if found else []


def main(source):
    levels = {}
    for (user, used), name in sorted(Crate(source).arrows().items()):
        shared = next((i for i, (one, other) in enumerate(zip(user, used)) if one != other), None)
        if shared is not None:
            why = f"{'::'.join(user)} imports {name} of {'::'.join(used)}"
            level = levels.setdefault(user[:shared], {})
            level.setdefault(user[shared], {}).setdefault(used[shared], why)
    rooms, faults = order(source), []
    for user, row in levels.pop((), {}).items() if rooms else []:
        for used, why in row.items():
            if {user, used} - set(rooms):
                faults.append(f"lib.rs gives no place to {user} or {used}")
            elif rooms.index(user) < rooms.index(used):
                faults.append(f"an arrow to a higher room: {why}")
    for graph in levels.values():
        while found := circle(graph):
            steps = [graph[user][used] for user, used in zip(found, found[1:])]
            faults.append("a circle: " + ", ".join(steps))
            del graph[found[-2]][found[-1]]
    print(f"{source}: " + ("\n  ".join(["faults:", *faults]) if faults else "no circle, no arrow to a higher room"))
    return bool(faults)


sys.exit(any([main(Path(source)) for source in sys.argv[1:]]))
