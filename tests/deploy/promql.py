"""Just enough of PromQL to take expressions apart."""

from __future__ import annotations

import re


def parts(expression: str, separator: str) -> list[str]:
    """Split where the separator stands outside of all brackets and quotes."""
    found, depth, start = [], 0, 0
    quoted = False
    place = 0
    while place < len(expression):
        character = expression[place]
        quoted ^= character == '"'
        depth += (character in "({[") - (character in ")}]") if not quoted else 0
        match = re.compile(separator).match(expression, place) if depth == 0 and not quoted else None
        if match:
            found.append(expression[start:place])
            place = start = match.end()
        else:
            place += 1
    return [*found, expression[start:]]


def operands(expression: str) -> list[str]:
    """The compared expression of an alert: without comparisons it always has a value."""
    found = []
    for part in parts(expression, r"\s(?:and|unless)\s+(?:on \(\w*\) |on \(\w*\)\s)?"):
        for side in parts(part, r"\s(?:[<>]=?|[!=]=)\s"):
            side = side.strip()
            inner = re.fullmatch(r"absent\((.*)\)", side, re.S)
            if inner:
                found += operands(inner[1])
            elif re.search("[a-zA-Z_]", side):
                found.append(side)
    return found


def named(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(by|on|group_left) \([^)]*\)", "", expression)
    return set(re.findall(r"\b(?:[a-z_]+:ltrr_[\w:]+|ltrr_\w+|process_\w+|python_\w+|up|ALERTS)\b", bare))
