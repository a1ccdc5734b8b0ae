"""Where one unit of text ends and the next begins: a function of the whole text alone.

A border lies before the first character of the next sentence: after an end mark, white space and
something that is no lower-case letter ("approx. five" goes on), after a blank line, or after a
full-width end mark. It is decided only once that next character is known, so however a text is cut
on its way, the borders are the same. A unit longer than the cap is split at white space.
"""

from __future__ import annotations

import re

_CANDIDATE = re.compile(
    r"[.!?\u2026\u3002\uff01\uff1f\n]"  # an end mark or a line's end
    r"[\"'\u201d\u2019\u00bb)\]*_\u300d\u300f\uff09]*+"  # what closes quotes and brackets
    r"\s*+"
)
_FULL_WIDTH = "\u3002\uff01\uff1f"


def borders(text: str, start: int, scan: int, cap: int) -> tuple[list[tuple[int, bool]], int]:
    """Find the ends of the units that are over in `text`; the first of them begins at `start`.

    Returns ([(end, sentence over), ...], scan). Call again with the last end as `start` and the
    returned `scan` once the text has grown: positions before `scan` need no second look.
    """
    size, limit = len(text), start + cap
    found: list[tuple[int, bool]] = []
    while True:
        match = _CANDIDATE.search(text, scan, limit + 1)
        if match is not None and (end := match.end()) <= limit:
            if end == size:
                return found, match.start()
            if _is_border(match, text[end]):
                found.append((end, True))
                limit = end + cap
            scan = end
            continue
        if size <= limit:
            return found, size
        scan = _forced_split(text, limit - cap, cap)
        found.append((scan, False))
        limit = scan + cap


def _is_border(match: re.Match[str], following: str) -> bool:
    mark = match.group()
    if mark.count("\n") > 1:
        return True
    if mark[0] in _FULL_WIDTH:
        return True
    return mark[0] != "\n" and mark[-1].isspace() and not following.islower()


def _forced_split(text: str, start: int, cap: int) -> int:
    for position in range(start + cap, start + cap // 2, -1):
        if text[position - 1].isspace():
            return position
    return start + cap
