"""The options of every verb: names, kinds of values, choices and defaults. The sentences may be rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from golden_runs.cases import Case, Facts, Finding, Side
from golden_runs.renames import ADDED, CHANGED, PRIVATE, RENAMED, VALUES
from golden_runs.trees import known_options


def cases() -> list[Case]:
    """All verbs in one case."""
    return [Case("help", _read, compare)]


def _read(side: Side, folder: Path) -> Facts:
    usage = side.tree.run(["dec2vec.cli", "--help"], side.inputs)
    verbs = re.findall(r"^  ([a-z]\w*) +\S", usage, re.MULTILINE)
    return {verb: {name: vars(option) for name, option in known_options(side.tree, verb).items()} for verb in verbs}


def compare(old: Facts, new: Facts) -> Iterator[Finding]:
    """A finding for each verb, which lists what was renamed or taken away on purpose."""
    for verb in new.keys() - old.keys():
        yield Finding(f"help {verb}", "", "a new verb")
    for verb, options in old.items():
        if verb in new:
            yield compare_options(verb, options, new[verb])
        else:
            yield Finding(f"help {verb}", "", "the verb is gone")


def compare_options(verb: str, old: Mapping[str, Facts], new: Mapping[str, Facts]) -> Finding:
    """The options of one verb."""
    names = {name: _present_name(verb, name, new) for name in old}
    private = sorted(name for name in old if names[name] is None and name in PRIVATE.get(verb, ()))
    removed = sorted(name for name in old if names[name] is None and name not in PRIVATE.get(verb, ()))
    added = sorted(new.keys() - set(names.values()))
    unexpected = [name for name in added if name not in ADDED.get(verb, ())]
    changed = [
        f"{name} {key}: {old[name][key]} is now {new[found][key]}"
        for name, found in names.items()
        if found is not None
        for key in ("kind", "default")
        if not _same(name, found, old[name][key], new[found][key])
        and CHANGED.get(verb, {}).get(name) != (old[name][key], new[found][key])
    ]
    renamed = [f"{name} -> {found}" for name, found in names.items() if found is not None and found != name]
    figure = f"{len(old)} options are now {len(new)}" + _listed(
        {"renamed": renamed, "private": private, "added": sorted(set(added) - set(unexpected))}
    )
    problems = _listed({"removed": removed, "added": unexpected, "changed": changed})
    return Finding(f"help {verb}", figure, problems.removeprefix("; "))


def _present_name(verb: str, name: str, new: Mapping[str, Facts]) -> str | None:
    """What an option of the old tree is called now; None when there is no such option."""
    renamed = RENAMED.get(verb, {}).get(name, name)
    return name if name in new else renamed if renamed in new else None


def _same(name: str, found: str, old: str, new: str) -> bool:
    """Equal, or equal once the old words among the choices are replaced by the new ones."""
    words = {**VALUES.get(name, {}), **VALUES.get(found, {})}
    return old == new or re.sub(r"\w+", lambda word: words.get(word[0], word[0]), old) == new


def _listed(groups: Mapping[str, list[str]]) -> str:
    return "".join(f"; {what}: {', '.join(items)}" for what, items in groups.items() if items)
