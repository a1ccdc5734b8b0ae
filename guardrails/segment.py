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


def next_border(text: str, start: int, scan: int, cap: int) -> tuple[int, bool, int]:
    """Find the end of the unit that begins at `start`.

    Returns (border, sentence over, scan). `border` is -1 while it cannot be known; call again with
    the returned `scan` once the text has grown. Positions before `scan` need no second look.
    """
    size = len(text)
    for match in _CANDIDATE.finditer(text, scan, min(size, start + cap + 1)):
        end = match.end()
        if end > start + cap:
            break
        if end == size:
            return -1, False, match.start()
        if _is_border(match, text[end]):
            return end, True, end
    if size <= start + cap:
        return -1, False, size
    return _forced_split(text, start, cap), False, -1


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
