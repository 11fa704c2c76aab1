#!/usr/bin/env python3
"""Fails where a script imports anything beside the standard library and the packages that are named:
`only_imports.py SCRIPT PACKAGE...`"""

import ast
import sys
from pathlib import Path

found = set()
for node in ast.walk(ast.parse(Path(sys.argv[1]).read_text())):
    if isinstance(node, ast.Import):
        found |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
        found.add("." if node.level else node.module.split(".")[0])
third = found - set(sys.stdlib_module_names)
print(*sorted(third))
sys.exit(third != set(sys.argv[2:]))
