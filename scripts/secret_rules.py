"""Renews src/stage/secrets/rules.toml, the rules that published files are searched by.

    cargo info kingfisher-rules@3.0.1          # lets cargo fetch the crate
    python3 scripts/secret_rules.py            # finds it in cargo's registry folder

The rules are Betterleaks' (MIT, by the author of Gitleaks), exactly as the crate `kingfisher-rules` carries
them in `generated/upstream-sources.json.gz`. Taken over: the pattern, its keywords, which group is the secret, the
entropy, the allowlists, the path a rule is for, and what else has to stand in the file. Left out: what asks a service
whether a secret is good, and `tokenRatio`, which needs a language model's vocabulary. A rule whose filter is a program
that cannot be said so is left out and named in the head of the file.
"""

import glob
import gzip
import json
import os
import re
import sys
import tomllib

CRATE, VERSION = "kingfisher-rules", "3.0.1"
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "stage", "secrets")
# alone they say nothing of a secret: any word after `key =`
GENERIC = {"generic-api-key", "generic-password", "generic-username", "generic-credential-uri"}


def rust(pattern):
    """Go's syntax in Rust's: a brace that counts nothing, and brackets in a class, are escaped."""
    out, at, inside, first = [], 0, False, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            out.append(pattern[at : at + 2])
            at, first = at + 2, False
            continue
        if inside:
            if char == "]" and not first:
                inside = False
            elif char in "[]" and not pattern.startswith("[:", at):
                char = "\\" + char
            elif char in "&~-" and pattern[at + 1 : at + 2] == char:
                char = "\\" + char
            elif pattern.startswith("[:", at):
                end = pattern.index(":]", at) + 2
                out.append(pattern[at:end])
                at, first = end, False
                continue
            first = False
        elif char == "[":
            inside, first = True, True
            if pattern[at + 1 : at + 2] == "^":
                out.append("[^")
                at += 2
                continue
        elif char == "{" and not re.match(r"\{\d+(,\d*)?\}", pattern[at:]):
            char = "\\{"
        elif char == "}":
            start = "".join(out).rfind("{")
            if not re.search(r"(?<!\\)\{\d+(,\d*)?$", "".join(out)) or start < 0:
                char = "\\}"
        out.append(char)
        at += 1
    return "".join(out)


def strings(text):
    """The items of a list of strings, raw in backticks or with escapes in quotes."""
    found = re.findall(r'`([^`]*)`|("(?:\\.|[^"\\])*")', text)
    return [raw if raw or not quoted else json.loads(quoted) for raw, quoted in found]


def split(text):
    """The parts of an alternative, at `||` outside of brackets and strings."""
    parts, depth, quote, start, at = [], 0, "", 0, 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\" and quote == '"':
                at += 1
            elif char == quote:
                quote = ""
        elif char in "`\"":
            quote = char
        elif char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif depth == 0 and text.startswith("||", at):
            parts.append(text[start:at])
            at += 1
            start = at + 1
        at += 1
    return [part.strip() for part in parts + [text[start:]]]


def filters(text, rule):
    """Reads a filter into the rule; False where it is more than this can say."""
    text = "\n".join(line for line in text.splitlines() if not line.strip().startswith("//")).strip()
    while text.startswith("(") and len(split(text)) == 1 and text.endswith(")"):
        text = text[1:-1].strip()
    for part in split(text):
        if not part or re.fullmatch(r'(tokenRatio|failsTokenEfficiency)\(finding\["secret"\]\)( >= [\d.]+)?', part):
            continue
        if found := re.fullmatch(r'entropy\(finding\["secret"\]\) (<=?) ([\d.]+)', part):
            rule["above" if found[1] == "<=" else "at_least"] = float(found[2])
        elif found := re.fullmatch(r'(!?)matchesAny\((finding\["secret"\]|finding\["match"\]|attributes\["path"\]), (\[.*\])\)', part, re.S):
            patterns = [rust(p) for p in strings(found[3])]
            if found[1]:
                if "match" in found[2] or "path" in found[2]:
                    return False
                rule.setdefault("needs", []).append("|".join(f"(?:{p})" for p in patterns) if len(patterns) > 1 else patterns[0])
            else:
                key = {"secret": "allow", "match": "allow_match", "path": None}[found[2].split('"')[1]]
                if key:  # a path in somebody's package is no path in a repo of the Hub
                    rule.setdefault(key, []).extend(patterns)
        elif found := re.fullmatch(r'containsAny\(finding\["secret"\], (\[.*\])\)', part, re.S):
            rule.setdefault("allow", []).extend(re.escape(s) for s in strings(found[1]))
        else:
            return False
    return True


def convert(source):
    everywhere, rules, left = {}, [], []
    if not filters(source["filter"], everywhere):
        sys.exit("the filter for all rules is more than this script can say")
    wanted = {c["id"] for r in source["rules"] for c in r.get("components", []) if not c.get("optional")}
    for entry in source["rules"]:
        rule = {"id": entry["id"]}
        part = bool(entry.get("skipReport"))
        if part and entry["id"] not in wanted:
            continue
        if entry["id"] in GENERIC or "regex" not in entry or not filters(entry.get("filter", ""), rule):
            left.append(entry["id"])
            continue
        rule["regex"] = rust(entry["regex"])
        rule["keywords"] = entry.get("keywords", [])
        if part:
            rule["part"] = True
        if "valueGroup" in entry:
            rule["group"] = entry["valueGroup"]
        if "path" in entry:
            rule["path"] = rust(entry["path"])
        needed = [c["id"] for c in entry.get("components", []) if not c.get("optional")]
        if needed:
            rule["with"] = needed
        rules.append(rule)
    known = {rule["id"] for rule in rules}
    for rule in rules:
        if missing := set(rule.get("with", [])) - known:
            sys.exit(f"{rule['id']} needs {missing}")
    return everywhere, rules, left


def text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(text(v) for v in value) + "]"
    if isinstance(value, str):
        return f"'{value}'" if "'" not in value and "\n" not in value else json.dumps(value, ensure_ascii=False)
    return str(value)


def main():
    folders = sys.argv[1:] or glob.glob(os.path.expanduser(f"~/.cargo/registry/src/*/{CRATE}-{VERSION}"))
    if not folders:
        sys.exit(f"{CRATE} {VERSION} is not in cargo's registry folder: run `cargo info {CRATE}@{VERSION}`")
    with gzip.open(os.path.join(folders[0], "generated", "upstream-sources.json.gz")) as file:
        sources = json.load(file)
    [(address, config)] = [(k, v) for k, v in sources.items() if k.endswith("/config/betterleaks.toml")]
    [licence] = [v for k, v in sources.items() if "/betterleaks/betterleaks/" in k and k.endswith("/LICENSE")]
    everywhere, rules, left = convert(tomllib.loads(config))
    revision = re.search(r"/([0-9a-f]{40})/", address)[1]
    lines = [
        f"# Made by scripts/secret_rules.py; not edited by hand. Source: https://github.com/betterleaks/betterleaks at",
        f"# {revision} (MIT: see LICENSE beside this file), as {CRATE} {VERSION} carries it.",
        f"# {sum(not r.get('part') for r in rules)} rules. Left out: {', '.join(left)}.",
        "",
        f"version = {text(f'betterleaks {revision[:12]}')}",
        f"allow = {text(everywhere['allow'])}",
    ]
    for rule in rules:
        lines += ["", "[[rule]]"] + [f"{key} = {text(value)}" for key, value in rule.items()]
    os.makedirs(HERE, exist_ok=True)
    for name, content in [("rules.toml", "\n".join(lines) + "\n"), ("LICENSE", licence)]:
        with open(os.path.join(HERE, name), "w") as file:
            file.write(content)
    print(f"{len(rules)} rules, {len(left)} left out: {', '.join(left)}")


main()
