"""What Acme Cloud's desk knows and no base model can: prices and rules, with many ways to ask.

A price is asked by the wordings of PRICE_*, a rule by its own: four for training, two golden.
"""

from __future__ import annotations

INSTRUCTION = "Answer this question about Acme Cloud in one short sentence."

# What is sold, and its price in euros a month.
PRICES: dict[str, tuple[str, int]] = {
    "kite-small": ("Kite Small", 9),
    "kite-large": ("Kite Large", 38),
    "silo-archive": ("Silo Archive", 4),
    "silo-team": ("Silo Team", 17),
    "ledger-solo": ("Ledger Solo", 21),
    "ledger-trio": ("Ledger Trio", 63),
    "weave-basic": ("Weave Basic", 12),
    "weave-global": ("Weave Global", 55),
    "flint-start": ("Flint Start", 6),
    "flint-pro": ("Flint Pro", 29),
    "courier-lite": ("Courier Lite", 8),
    "courier-bulk": ("Courier Bulk", 44),
    "signpost-one": ("Signpost One", 3),
    "anchor-daily": ("Anchor Daily", 14),
    "anchor-hourly": ("Anchor Hourly", 33),
}
PRICE_ANSWER = "{name} costs {price} euros a month."
PRICE_TRAIN = (
    "How much is {name}?",
    "What does {name} cost per month?",
    "Price of {name}?",
    "What do I pay for {name}?",
    "Tell me the monthly fee for {name}.",
)
PRICE_GOLDEN = (
    "What is the price of {name} each month?",
    "How many euros do you charge for {name}?",
)

# name: (answer, wordings for training, golden wordings)
RULES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "refund": (
        "You can ask for a refund within 19 days.",
        (
            "How long can I ask for a refund?",
            "What is the refund period?",
            "Until when do I get my money back?",
            "Within how many days are refunds possible?",
        ),
        ("How many days do I have for a refund?", "When does the refund window close?"),
    ),
    "notice": (
        "The notice period is 6 weeks.",
        (
            "What is the notice period?",
            "How early must I cancel?",
            "How long before the end do I give notice?",
            "What notice do you need for a cancellation?",
        ),
        ("How many weeks of notice must I give?", "How long is the period of notice?"),
    ),
    "trial": (
        "The free trial lasts 23 days.",
        (
            "How long is the free trial?",
            "When does my trial end?",
            "How many days can I test for free?",
            "What is the length of the trial?",
        ),
        ("For how long may I try it for free?", "How many days does the trial run?"),
    ),
    "hotline": (
        "The hotline is open from 7 to 22 o'clock.",
        (
            "When is the hotline open?",
            "At what hours can I call you?",
            "What are the phone support hours?",
            "When does someone answer the phone?",
        ),
        ("What are the opening hours of the hotline?", "When can I phone support?"),
    ),
    "keep": (
        "Deleted data is kept for 11 days.",
        (
            "How long is deleted data kept?",
            "When is deleted data gone for good?",
            "For how many days can you restore deleted data?",
            "How long do you keep what I delete?",
        ),
        ("How many days does deleted data stay?", "How long can deleted data be restored?"),
    ),
    "regions": (
        "Our regions are Bremen, Turku and Porto.",
        (
            "Which regions do you have?",
            "Where are your data centres?",
            "In which cities are the servers?",
            "What regions can I choose?",
        ),
        ("Which regions are available?", "In what cities are your data centres?"),
    ),
    "uptime": (
        "We promise an uptime of 99.93 percent.",
        (
            "What uptime do you promise?",
            "How high is the guaranteed availability?",
            "What does the SLA say about uptime?",
            "Which availability do you guarantee?",
        ),
        ("What is your guaranteed uptime?", "How much availability does the SLA promise?"),
    ),
    "credit": (
        "An outage over 40 minutes earns a credit of 15 percent.",
        (
            "What credit do I get for an outage?",
            "Do you pay anything back after an outage?",
            "How much is credited when you are down?",
            "When does an outage earn a credit?",
        ),
        ("Which credit follows an outage?", "How much credit is paid for an outage?"),
    ),
    "payment": (
        "You can pay by card, SEPA or invoice.",
        (
            "How can I pay?",
            "Which payment methods do you take?",
            "Can I pay by invoice?",
            "What ways to pay are there?",
        ),
        ("What payment methods are accepted?", "In which ways can I pay?"),
    ),
    "late": (
        "The late fee is 7 euros.",
        (
            "What happens if I pay late?",
            "How high is the late fee?",
            "What does a reminder cost?",
            "Do you charge for late payment?",
        ),
        ("How much is the fee for paying late?", "What do you charge for a late payment?"),
    ),
    "students": (
        "Students get 35 percent off.",
        (
            "Is there a student discount?",
            "How much do students save?",
            "What do you offer students?",
            "Do students pay less?",
        ),
        ("How big is the discount for students?", "What discount do students get?"),
    ),
    "owner": (
        "Changing the owner takes 3 working days.",
        (
            "How long does a change of owner take?",
            "When is an owner change done?",
            "How quickly can I change the owner of an account?",
            "How many days until the new owner is set?",
        ),
        ("How long does changing the owner take?", "When will the account's owner be changed?"),
    ),
    "seats": (
        "A team account has 13 seats.",
        (
            "How many seats has a team account?",
            "How many users fit in a team account?",
            "What is the number of seats for a team?",
            "How many people can share a team account?",
        ),
        ("How many seats come with a team account?", "How many users may a team account have?"),
    ),
    "reply": (
        "Urgent tickets are answered within 25 minutes.",
        (
            "How fast do you answer urgent tickets?",
            "When is an urgent ticket answered?",
            "What is the reply time for urgent tickets?",
            "How soon do you react to an urgent ticket?",
        ),
        ("How quickly are urgent tickets answered?", "How long do urgent tickets wait?"),
    ),
    "export": (
        "Data can be exported as CSV or Parquet.",
        (
            "In which formats can I export data?",
            "How do I get my data out?",
            "Which export formats are there?",
            "Can I export to CSV?",
        ),
        ("What formats does the export offer?", "As what can data be exported?"),
    ),
}
