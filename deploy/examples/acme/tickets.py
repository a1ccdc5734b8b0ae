"""Wording of the support desk's tickets: what customers write, and what the desk makes of it.

`{p}` is the product a ticket is about, `{q}` another one that is only mentioned. The wordings are
split by hand: those of DEV and GOLDEN occur in no training ticket.
"""

from __future__ import annotations

INSTRUCTION = (
    "Sort this Acme Cloud ticket. Answer with JSON only: product, issue, priority, order_id."
)

# The desk's product names, and what customers call them.
PRODUCTS: dict[str, tuple[str, ...]] = {
    "kite": ("Kite server", "virtual machine", "VM", "instance", "rented server", "Linux box"),
    "silo": ("Silo bucket", "bucket", "object store", "file storage", "S3 storage"),
    "ledger": ("Ledger cluster", "Postgres", "managed database", "SQL database", "database"),
    "weave": ("Weave network", "load balancer", "VPN gateway", "private network", "firewall"),
    "flint": ("Flint function", "serverless function", "cron function", "worker script"),
    "courier": ("Courier account", "SMTP relay", "mail service", "newsletter sender", "mailer"),
    "signpost": ("Signpost zone", "domain", "DNS zone", "nameserver", "DNS record"),
    "anchor": ("Anchor vault", "backup vault", "snapshot schedule", "nightly backup", "backup"),
}

# Without a hint in the text the issue alone decides.
BASE_PRIORITY = {
    "outage": "high",
    "data_loss": "high",
    "slow": "normal",
    "billing": "normal",
    "access": "normal",
    "how_to": "low",
    "cancel": "low",
}
PRIORITIES = ("low", "normal", "high", "urgent")

# calm -> low; raise -> one step above the issue's own; alarm -> urgent.
TRAIN_CUES: dict[str, tuple[str, ...]] = {
    "calm": (
        "No rush.",
        "Take your time.",
        "This can wait until next week.",
        "Not urgent at all.",
        "Whenever you find a minute.",
        "It is only a test project.",
    ),
    "raise": (
        "This is the third time I write.",
        "I have already waited four days for an answer.",
        "Nobody replied to my last message.",
        "It happened last month as well.",
        "My whole team is waiting.",
        "I am asking again.",
    ),
    "alarm": (
        "Our customers cannot order!",
        "This is production and we lose money every minute.",
        "Our shop is closed because of this.",
        "We go live in one hour!",
        "Paying users are affected right now.",
        "Please call me at once!",
    ),
}
HELD_OUT_CUES: dict[str, tuple[str, ...]] = {
    "calm": ("There is no hurry.", "Next month is early enough.", "It is just a test machine."),
    "raise": (
        "I wrote about this twice already.",
        "Still no answer from you since last week.",
        "My colleagues are waiting too.",
    ),
    "alarm": (
        "We lose orders every minute!",
        "Our live shop is affected right now.",
        "Call me immediately, customers are leaving!",
    ),
}

TRAIN_ORDERS = (
    "Order {o}.",
    "My order number is {o}.",
    "({o})",
    "Reference: {o}",
    "It was bought under {o}.",
)
HELD_OUT_ORDERS = ("The order is {o}.", "Ordered as {o}.", "Our reference is {o}.")

# Numbers that look like an order and are none: the answer is null.
TRAIN_DECOYS = ("Invoice INV-{n}.", "Earlier ticket: TK-{n}.", "Error code {n}.")
HELD_OUT_DECOYS = ("See invoice INV-{n}.", "This follows ticket TK-{n}.")

TRAIN: dict[str, tuple[str, ...]] = {
    "outage": (
        "Our {p} is down since this morning.",
        "We cannot reach the {p}, every request times out.",
        "The {p} stopped working ten minutes ago.",
        "Nothing answers on our {p} any more.",
        "Hello, is there an incident? The {p} is offline.",
        "The {p} crashed again and does not come back.",
        "Our {q} works, but the {p} is completely dead.",
        "The {p} returns error 503 for everything.",
        "Status of the {p} has been red for an hour.",
    ),
    "slow": (
        "Our {p} has become very slow.",
        "Answers from the {p} take eight seconds today.",
        "Since the update the {p} is crawling.",
        "The {p} responds, but with huge delays.",
        "Why does the {p} need so long for the simplest thing?",
        "Performance of our {p} has halved since Monday.",
        "The {q} is quick, yet the {p} lags badly.",
        "We see high latency on the {p}.",
        "Everything on the {p} runs at a snail's pace.",
    ),
    "billing": (
        "You charged us twice for the {p}.",
        "The bill for our {p} is higher than the offer said.",
        "I do not understand the invoice for the {p}.",
        "Please refund last month's payment for the {p}.",
        "Our card was debited although the {p} is free for us.",
        "The VAT on the {p} invoice is wrong.",
        "We pay for a {p} that we never ordered, only for the {q}.",
        "The discount for the {p} is missing from the bill.",
        "Why did the price of our {p} go up?",
    ),
    "access": (
        "I cannot log in to the {p}.",
        "My password for the {p} is not accepted.",
        "The {p} says permission denied for my user.",
        "Please unlock my account on the {p}.",
        "A new colleague needs a login for our {p}.",
        "The two-factor code for the {p} never arrives.",
        "I can open the {q}, but I am locked out of the {p}.",
        "Our API key for the {p} is rejected as invalid.",
        "I lost the admin credentials of the {p}.",
    ),
    "data_loss": (
        "Half of the data in our {p} is gone.",
        "Entries have vanished from the {p} overnight.",
        "Someone deleted everything in the {p}, can you restore it?",
        "The {p} is empty after your maintenance.",
        "Our {p} lost all changes made since Friday.",
        "We miss files that were in the {p} yesterday.",
        "After moving from the {q}, records are missing in the {p}.",
        "The {p} was wiped by mistake, please bring it back.",
        "Last week's contents of the {p} have disappeared.",
    ),
    "how_to": (
        "How do I set up a second {p}?",
        "Where can I find the manual for the {p}?",
        "Can you explain how to resize our {p}?",
        "What is the best way to move a {p} to another region?",
        "Is there a guide for connecting the {p} with the {q}?",
        "I would like to know how to rename the {p}.",
        "Which settings do you recommend for a {p}?",
        "How can I watch the usage of my {p}?",
        "Does the {p} support tags, and how do I add them?",
    ),
    "cancel": (
        "Please cancel our {p}.",
        "We no longer need the {p}, end the contract.",
        "I want to terminate the {p} at the end of the month.",
        "Close the {p}, we are moving to another provider.",
        "How soon can we get out of the contract for the {p}?",
        "Do not renew the {p}.",
        "Keep the {q}, but cancel the {p}.",
        "We are shutting down the project, so stop the {p} subscription.",
        "This is our notice for the {p}.",
    ),
}

DEV: dict[str, tuple[str, ...]] = {
    "outage": ("The {p} has gone dark, no reply at all.", "Is the {p} broken? It is unreachable."),
    "slow": ("Our {p} takes ages to respond.", "The {p} is sluggish all week."),
    "billing": ("There is a wrong amount on the {p} bill.", "We were overcharged for the {p}."),
    "access": ("My login to the {p} fails.", "The {p} refuses my credentials."),
    "data_loss": ("Records in our {p} went missing.", "All data on the {p} was erased."),
    "how_to": ("How does one configure a {p}?", "Could you show me how to copy a {p}?"),
    "cancel": ("We wish to end our {p} subscription.", "Please terminate the {p} contract."),
}

GOLDEN: dict[str, tuple[str, ...]] = {
    "outage": (
        "The {p} does not respond at all.",
        "Since 9 o'clock our {p} has been unavailable.",
        "While the {q} is up, the {p} is not reachable.",
        "Our {p} went offline and will not start again.",
    ),
    "slow": (
        "The {p} is extremely slow today.",
        "Every call to our {p} takes much longer than before.",
        "The {p} has terrible response times.",
        "The {q} is fine, only the {p} has big delays.",
    ),
    "billing": (
        "The last invoice for our {p} is not correct.",
        "I was billed two times for the {p}.",
        "We want our money back for the {p}.",
        "Why is the {p} more expensive than the {q} on my bill?",
    ),
    "access": (
        "I am unable to sign in to our {p}.",
        "The {p} tells me access denied.",
        "Please reset my password for the {p}.",
        "Login to the {q} works, but not to the {p}.",
    ),
    "data_loss": (
        "Our data in the {p} has disappeared.",
        "The contents of the {p} were deleted, please restore them.",
        "Since yesterday many entries are missing in our {p}.",
        "We copied from the {q} and now the {p} has lost files.",
    ),
    "how_to": (
        "How can I add a user-defined label to the {p}?",
        "Please tell me how to connect a {p} to the {q}.",
        "Where do I change the settings of my {p}?",
        "Is there documentation about the {p}?",
    ),
    "cancel": (
        "I would like to cancel the {p} contract.",
        "We want to stop using the {p} next month.",
        "Please end the {p} but leave the {q} running.",
        "Our company does not need the {p} any longer, please close it.",
    ),
}
