"""Two corrections to the word-based toxicity classifier, both plain patterns.

It misses threats without swear words, so `is_hostile` knows threats and insults by their shape:
what is done to *you*, what *you are*. And it takes mild words for abuse wherever they stand, so
`calmed` drops those from sentences that are about nobody ("Damn, this cake is good!").
"""

from __future__ import annotations

import re

_WILL = (
    r"\b(?:i|we|they|he|she|somebody|someone)(?:['\u2019]ll|['\u2019](?:m|re|s) (?:going to|gonna)|"
    r" (?:will|shall|(?:am|are|is) going to|(?:am |are )?gonna|want to|would love to|ought to"
    r"|should|could|promise to|have to|swear (?:to god )?(?:that )?(?:i|we)(?: will|['\u2019]ll)))"
    r"(?: (?:personally|really|just|gladly|happily|find you and|hunt you down and|come and"
    r"|come over and|come to your \w+ and))*"
)
_VIOLENCE = (
    r"(?:kill|murder|hurt|stab|strangle|choke|punch|slap|smash|destroy|torture|ruin|shoot|beat|hit"
    r"|kick|crush|skin|bury|break|slit|burn|cut off|cut|gut|end|poison|bash|knock out|blow up|blow)"
)
_YOU = (
    r"(?: up| down| out| off)?(?: (?:all|every one|both|each) of| every \w+ (?:bone )?(?:in|of))? "
    r"(?:you(?= alive| to death| until| till| with| in the| like| so| for| and| tonight| tomorrow"
    r"| up\b| one| some| all\b| where|[.!?,;]|$)"
    r"|your (?:\w+ )?(?:neck|legs?|arms?|face|teeth|throat|head|skull|bones?|family|kids?|children"
    r"|wife|husband|mother|father|mom|dad|dog|house|home|nose|fingers?|knees?|brains?|life|eyes?"
    r"|ribs|jaw|body)\b)"
)
_MEAN = (
    r"(?:dumb(?:est)?|stupid(?:est)?|ugliest|filthiest|vilest|brainless|spineless|incompetent|useless|worthless|pathetic|filthy|ugly"
    r"|miserable|disgusting|revolting|vile|ignorant|rotten|idiotic|moronic|clueless|repulsive"
    r"|dim-?witted|half-?witted|two-faced|whiny|good-for-nothing|embarrassing|shameful|wretched|contemptible)"
)
_NAME = (
    r"(?:idiots?|morons?|losers?|imbeciles?|clowns?|trash|garbage|filth|scum|cows?|pigs?|rats?"
    r"|worms?|swine|creeps?|twits?|cowards?|brats?|fools?|failures?|disgrace|dimwits?|halfwits?"
    r"|vermin|parasites?|cockroach(?:es)?|dirt|slime|scumbags?|dirtbags?|lowli(?:fe|ves)|nobody"
    r"|nitwits?|simpletons?|dunces?|buffoons?|pests?|leech(?:es)?|joke"
    r"|waste of (?:space|air|oxygen))"
)
_ARE = r"\byou(?: people| all| guys| lot)?(?: are|['\u2019]re| were)"
_PADDING = (
    r"(?: (?:a|an|the|such a|such an|so|really|just|nothing but|nothing more than|all|truly|simply"
    r"|absolutely|completely|total|complete|absolute|utter|utterly|most|biggest|too|always|one"
    r"|bunch of|piece of|pile of|bit of|little|old|big|fat|pretty|very))*"
)

# "If you are a rat owner" calls nobody a rat.
_END = r"(?=[.!?,;:-]|$| (?:and|who|that|but|or|as|with|if|because|in|on|at|to|for|like)\b)"

_HOSTILE = re.compile(
    "|".join(
        (
            rf"{_WILL} {_VIOLENCE}{_YOU}",
            rf"{_ARE}{_PADDING} (?:{_MEAN}(?:,? {_MEAN})*(?: {_NAME}|{_END})|{_NAME}{_END})",
            rf"\byou {_MEAN}(?:,? (?:little|old|fat|{_MEAN}))*"
            r" (?!(?:thing|question|mistake)s?\b)\w+",
            rf"\byou (?:little |old |fat |complete |total |absolute )?{_NAME}(?=[.!?,;]|$)",
            r"(?:^|[.!?,;:] |\b(?:go|just|should|and) )(?:go )?(?:and )?"
            r"(?:kill|hang|drown) yourself",
            r"(?:^|[.!?,;:] |\bjust |\byou can )"
            r"(?:go (?:and )?(?:die|to hell|rot|choke)\b|drop dead\b|burn in hell|rot in hell)",
            r"\b(?:hope|wish|pray) (?:that )?(?:you|your \w+)(?: all| both)?"
            r"(?: will| would|['\u2019]d)? (?:die|dies|died|rot|rots|suffer|suffers|choke|bleed"
            r"|burn|crash|get cancer|were dead|was dead)\b",
            r"\byou(?: all)? deserve to (?:die|suffer|rot|bleed|be (?:shot|hanged|beaten|killed))",
            r"\b(?:nobody|no one) (?:would|will) miss you if you (?:were|are|died)",
            r"\bbetter (?:off )?(?:without you\b(?! having)|if you (?:were dead|died))",
            r"\bwatch your back,? (?:because|or|tonight|from now on|you)",
            r"\bknow where you(?:r \w+)? (?:live|sleep|lives|go)s?\b",
            r"\bmake you (?:pay for this|suffer|bleed|beg|regret (?:being born|the day))",
            r"\byou(?:['\u2019]ll| will| are going to|['\u2019]re going to)"
            r" (?:die (?:for|tonight|slowly|soon|screaming)|bleed|pay for this with"
            r"|be sorry you were)",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)

_SOMEBODY = re.compile(
    r"\b(?:you|your|yours|yourself|u|ur|he|she|him|her|his|they|them|their|who|people|persons?|guys?|everyone"
    r"|everybody|men|women|man|woman|mother|father|wife|husband|boss|idiots?)\b"
    r"|\b(?:you|he|she|they)['\u2019]",
    re.IGNORECASE,
)
_MILD = re.compile(
    r"\b(?:damn(?:ed)?|darn|hell|heck|sucks?|crap(?:py)?|stupid(?:ly)?|silly|dumb|screw(?:ed|s|ing)?"
    r"|bloody|hate|piss-poor|pissed|fat|ugly|cock|fool|lame|shame|ass|freaking|weird|loser)\b",
    re.IGNORECASE,
)


def is_hostile(text: str) -> bool:
    """Whether the text has the shape of a threat or an insult to its reader."""
    return _HOSTILE.search(text) is not None


def calmed(text: str) -> str:
    """The text without mild words, if it is about nobody; the text itself otherwise."""
    if _SOMEBODY.search(text):
        return text
    return _MILD.sub(" ", text)
