"""Other values of the same kind in the place of personal data, always the same for the same value.

A surrogate follows from a keyed hash of scope, kind and value, so the same name in a question, its
answer and a later correction becomes the same other name, and nobody without the key can go back.
None is anybody's: addresses end in a reserved domain (RFC 2606), phone numbers lie in ranges kept
for fiction or are drawn anew, card numbers begin as test cards do, social security numbers begin
with a 9, which is never given out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from types import MappingProxyType

_FIRST_NAMES = (
    "Ada Adrian Alma Amir Anita Anton Arlo Astrid Bela Bianca Boris Bruno Carla Cedric Celia Clara "
    "Conrad Dalia Damian Daria Dario Delia Edgar Elena Elias Elsa Emil Enzo Erik Esther Fabian "
    "Felix Fiona Flora Frida Gemma Gideon Gloria Greta Hanna Hector Helena Hugo Ida Igor Ines "
    "Irene Isaac Ivan Jana Jasper Joel Jonas Judith Julia Kaspar Katja Kira Konrad Lara Leander "
    "Leila Leo Lidia Linus Livia Lorenz Lucia Magda Malte Mara Marius Matilda Mila Milo Miriam "
    "Moritz Nadia Nestor Nina Noel Nora Olga Oscar Otto Paula Petra Philip Pia Quentin Ramona "
    "Raul Rita Roman Rosa Ruben Sabine Samir Selma Silas Simona Stella Sven Tamara Tessa Theo "
    "Tilda Valentin Vera Victor Viola Wanda Xenia Yara Yusuf Zelda"
)
_LAST_NAMES = (
    "Abbott Adler Ahmadi Albright Almeida Andersen Arnold Baldwin Barlow Becker Bellamy Bergman "
    "Bishop Blackwood Bowen Brandt Calloway Carver Castillo Chandler Clayton Cordova Crawford "
    "Dalton Danvers Delgado Dixon Drake Dunham Eastwood Egan Ellison Engel Farrell Fenwick Fischer "
    "Fleming Forster Gallagher Garland Gibson Graham Granger Hadley Hagen Halloran Hartley Hayward "
    "Hoffman Holbrook Hollis Ibarra Ingram Jansen Jarvis Keating Kendall Kimura Kowalski Kruger "
    "Landry Langley Larkin Lindholm Lockwood Maddox Malik Marlow Mercer Merrick Moreau Nakamura "
    "Navarro Norwood Novak Oakley Okafor Olsen Osborne Paxton Pemberton Petrov Prescott Quigley "
    "Radcliffe Ramsey Redmond Richter Rosales Rowland Sandoval Santini Schaefer Sheldon Sinclair "
    "Somers Stanton Strand Sutton Talbot Thorne Tremblay Underhill Vance Vasquez Vogel Walden "
    "Weaver Whitaker Winslow Wolfe Yamada Yardley Zimmer"
)
_FIRST = tuple(_FIRST_NAMES.split())
_LAST = tuple(_LAST_NAMES.split())
_DOMAINS = ("example.com", "example.net", "example.org")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_NANP = re.compile(r"(?:\+?1\D{0,2})?\(?\d{3}\)?\D{0,2}\d{3}\D{0,2}\d{4}")
_LETTERS = MappingProxyType(
    {"upper": "ABCDEFGHJKLMNPQRSTUVWXYZ", "lower": "abcdefghjkmnpqrstuvwxyz"}
)


class Surrogates:
    """Makes the surrogates of one installation; `key` has at most 64 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, scope: str, label: str, value: str, last_names: Collection[str] = ()) -> str:
        """Give the surrogate of a value; it never equals the value.

        `label` is the finding's kind. A person's name is replaced word by word, so that "Maria"
        goes on being called what "Maria Keller" is called; `last_names` (case-folded) tells which
        single words are last names. A kind that is not known keeps its shape only.
        """
        for attempt in range(8):
            draw = _Draw(self._key, f"{scope}\0{label}\0{attempt}")
            made = self._made(draw, label, value, last_names)
            if made.casefold() != value.casefold():
                return made
        return "" if not value else _shape(_Draw(self._key, scope + value), "X" * len(value))

    def _made(self, draw: _Draw, label: str, value: str, last_names: Collection[str]) -> str:
        match label:
            case "PERSON":
                return _person(draw, value, last_names)
            case "EMAIL_ADDRESS":
                return _email(draw.at(value.casefold()))
            case "PHONE_NUMBER":
                return _phone(draw.at(_digits(value)), value)
            case "CREDIT_CARD":
                return _card(draw.at(_digits(value)), value)
            case "IBAN_CODE":
                return _iban(draw.at("".join(value.split()).upper()), value)
            case "US_SSN":
                return _ssn(draw.at(_digits(value)), value)
            case _:
                return _shape(draw.at(value), value)


class _Draw:
    """Numbers that follow from the key, the scope and a value, one after another."""

    def __init__(self, key: bytes, scope: str) -> None:
        self._key = key
        self._scope = scope
        self._state = b""
        self._left = 0

    def at(self, value: str) -> _Draw:
        """Begin anew for a value."""
        other = _Draw(self._key, f"{self._scope}\0{value}")
        other._refill()
        return other

    def below(self, bound: int) -> int:
        """Give a number of 0..bound-1; `bound` is far below 2**32."""
        if self._left < 4:
            self._refill()
        number = int.from_bytes(self._state[self._left - 4 : self._left], "big")
        self._left -= 4
        return number % bound

    def digits(self, count: int) -> str:
        """Give so many decimal digits."""
        return "".join(str(self.below(10)) for _ in range(count))

    def _refill(self) -> None:
        text = self._state.hex() + self._scope
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=self._key, digest_size=64)
        self._state, self._left = digest.digest(), 64


def _digits(value: str) -> str:
    return "".join(char for char in value if char.isdigit())


def _person(draw: _Draw, value: str, last_names: Collection[str]) -> str:
    words = list(_WORD.finditer(value))
    out, at = [], 0
    for number, word in enumerate(words):
        plain = word.group().casefold()
        is_last = plain in last_names or (len(words) > 1 and number == len(words) - 1)
        names = _LAST if is_last else _FIRST
        name = names[draw.at(plain).below(len(names))]
        out += [value[at : word.start()], _cased(name, word.group())]
        at = word.end()
    return "".join(out) + value[at:]


def _cased(name: str, like: str) -> str:
    if like.islower():
        return name.lower()
    return name.upper() if like.isupper() and len(like) > 1 else name


def _email(draw: _Draw) -> str:
    first, last = _FIRST[draw.below(len(_FIRST))], _LAST[draw.below(len(_LAST))]
    domain = _DOMAINS[draw.below(len(_DOMAINS))]
    return f"{first}.{last}{draw.below(90) + 10}@{domain}".lower()


def _phone(draw: _Draw, value: str) -> str:
    if _NANP.fullmatch(value.strip()):
        digits = _digits(value)
        area = f"{2 + draw.below(8)}{draw.digits(2)}"
        new = digits[:-10] + area + "55501" + draw.digits(2)
    else:
        digits = _digits(value)
        keep = 2 if value.lstrip().startswith("+") else min(1, len(digits))
        if len(digits) == 7:
            new = "55501" + draw.digits(2)
        else:
            new = digits[:keep] + draw.digits(len(digits) - keep)
    return _fill(value, new)


def _card(draw: _Draw, value: str) -> str:
    digits = _digits(value)
    begin = ("370000" if len(digits) == 15 else "400000")[: max(0, len(digits) - 1)]
    body = begin + draw.digits(max(0, len(digits) - len(begin) - 1))
    total = 0
    for place, char in enumerate(reversed(body)):
        number = int(char) * (2 if place % 2 == 0 else 1)
        total += number - 9 if number > 9 else number
    return _fill(value, body + str(-total % 10))


def _iban(draw: _Draw, value: str) -> str:
    plain = "".join(value.split()).upper()
    country, account = plain[:2], _shape(draw, plain[4:])
    moved = "".join(str(int(char, 36)) for char in f"{account}{country}00" if _is_code(char))
    new = iter(f"{country}{98 - int(moved) % 97:02d}{account}")
    return "".join(char if char.isspace() else next(new, char) for char in value)


def _is_code(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _ssn(draw: _Draw, value: str) -> str:
    digits = f"9{draw.digits(2)}0{1 + draw.below(9)}{draw.digits(4)}"
    return _fill(value, digits[: len(_digits(value))])


def _shape(draw: _Draw, value: str) -> str:
    """Draw every letter and digit anew, and keep everything else."""
    return "".join(_other(draw, char) for char in value)


def _other(draw: _Draw, char: str) -> str:
    if char.isdigit():
        return str(draw.below(10))
    if not char.isalpha():
        return char
    letters = _LETTERS["upper" if char.isupper() else "lower"]
    return letters[draw.below(len(letters))]


def _fill(value: str, digits: str) -> str:
    """Put new digits into the places of the old ones."""
    new = iter(digits)
    return "".join(next(new, char) if char.isdigit() else char for char in value)
