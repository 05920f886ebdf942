"""The micro-world's words: people, what can be said of them, and how it is said and asked.

Data only. To add a relation, give its slots' values, its sentences, its questions, and make
everything again (README.md). A value must not stand in two slots, nor in a sentence's or
question's own words.
"""

from __future__ import annotations


def _list(words: str) -> list[str]:
    return words.split()


WOMEN = _list("Anna Kate Zoë Mary Lucy Emma Rosa Nina Inés Clara Helen Maya")
MEN = _list("Tom José Ben Paul Max Peter Omar Jack Leo Björn Simon Henry")

VALUES: dict[str, list[str]] = {
    "town": _list("Rome Paris Oslo Lima Cairo Dublin Boston Berlin Madrid Vienna Tokyo Delhi"),
    "job": _list("baker doctor farmer teacher sailor painter pilot nurse tailor singer cook judge"),
    "colour": _list("red blue green white black grey brown yellow pink purple"),
    "animal": _list("cat dog horse rabbit parrot goat duck mouse pony hamster turtle lamb"),
    "pet_name": _list("Momo Pip Daisy Rex Coco Bella Fluffy Oscar Ginger Shadow Biscuit Lucky"),
    "food": _list("soup rice cake pizza bread cheese fish honey pancakes apples noodles salad"),
    "thing": _list("kite drum lamp book hat ball box clock cup doll bicycle basket"),
    "place": [
        *("under the bed", "in the attic", "behind the door", "in the kitchen", "on the shelf"),
        *("in the garden", "near the window", "in the barn", "under the stairs", "in the cellar"),
        *("on the roof", "beside the stove"),
    ],
    "instrument": _list("violin piano flute guitar trumpet harp cello banjo organ tuba"),
}

# Per relation: the slots that its sentence fills, and the sentences. {S} is "Anna" or "She", {P} is
# "Anna's" or "Her", {p} is always "her" or "his".
RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "home": (("town",), ("{S} lives in {town}", "{P} house is in {town}")),
    "work": (("job",), ("{S} works as a {job}", "{S} is a {job}")),
    "pet": (
        ("colour", "animal", "pet_name"),
        (
            "{S} has a {colour} {animal} called {pet_name}",
            "{P} pet is {pet_name}, a {colour} {animal}",
        ),
    ),
    "meal": (("food",), ("{S} likes to eat {food}", "{P} favourite food is {food}")),
    "thing": (("colour", "thing", "place"), ("{S} keeps a {colour} {thing} {place}",)),
    "friend": (("friend",), ("{P} best friend is {friend}",)),
    "music": (("instrument",), ("{S} plays the {instrument}", "{S} can play the {instrument}")),
}

# Questions about one slot of one person. {s} is "Anna" or "she", {p} is "Anna's" or "her".
QUESTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("home", "town"): ("Where does {s} live?", "In which town does {s} live?"),
    ("work", "job"): ("What is {p} job?", "What does {s} do for work?"),
    ("pet", "animal"): ("What pet does {s} have?", "What kind of animal does {s} have?"),
    ("pet", "colour"): ("What colour is {p} {animal}?",),
    ("pet", "pet_name"): ("What is {p} {animal} called?", "What is the name of {p} {animal}?"),
    ("meal", "food"): ("What does {s} like to eat?", "What is {p} favourite food?"),
    ("thing", "thing"): ("What does {s} keep at home?", "What thing does {s} keep?"),
    ("thing", "place"): ("Where does {s} keep {p_own} {thing}?",),
    ("thing", "colour"): ("What colour is {p} {thing}?",),
    ("friend", "friend"): ("Who is {p} best friend?",),
    ("music", "instrument"): ("What does {s} play?", "Which instrument does {s} play?"),
}
IT_QUESTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pet", "colour"): ("What colour is it?",),
    ("pet", "pet_name"): ("What is it called?", "What is its name?"),
    ("thing", "place"): ("Where does {s} keep it?", "Where is it?"),
    ("thing", "colour"): ("What colour is it?",),
}
YES_NO: dict[tuple[str, str], str] = {
    ("home", "town"): "Does {s} live in {value}?",
    ("work", "job"): "Is {s} a {value}?",
    ("pet", "animal"): "Does {s} have a {value}?",
    ("meal", "food"): "Does {s} like {value}?",
    ("thing", "thing"): "Does {s} keep a {value}?",
    ("music", "instrument"): "Does {s} play the {value}?",
}
WHO: dict[tuple[str, str], str] = {
    ("home", "town"): "Who lives in {value}?",
    ("work", "job"): "Who is a {value}?",
    ("pet", "animal"): "Who has a {value}?",
    ("meal", "food"): "Who likes {value}?",
    ("thing", "thing"): "Who keeps a {value}?",
    ("music", "instrument"): "Who plays the {value}?",
}
AND_QUESTIONS = ("And {name}?", "What about {name}?")

OPENERS: dict[str, tuple[str, ...]] = {
    "mctest": (
        "Once upon a time there were three friends, {a}, {b} and {c}.",
        "{a}, {b} and {c} went for a long walk on a sunny day.",
    ),
    "gutenberg": (
        "In those days {a}, {b} and {c} were well known in the valley.",
        "It was a cold evening when {a}, {b} and {c} met at the old inn.",
    ),
    "race": (
        "Our teacher asked us to write about {a}, {b} and {c}.",
        "Last week {a}, {b} and {c} joined our school club.",
    ),
    "cnn": (
        "(CNN) -- Three people, {a}, {b} and {c}, won a prize on Monday.",
        "(CNN) -- Reporters met {a}, {b} and {c} on Sunday.",
    ),
    "wikipedia": (
        "{a}, {b} and {c} are three people in a short novel.",
        "The film tells the story of {a}, {b} and {c}.",
    ),
}
CLOSERS: dict[str, tuple[str, ...]] = {
    "mctest": ("They were all very happy.", "Then they all went home."),
    "gutenberg": ("And so the long winter passed.", "Nobody said a word after that."),
    "race": ("We learned a lot from them.", "We think they are great."),
    "cnn": ("The news made many people smile.", "They will meet again on Friday."),
    "wikipedia": ("It was first printed long ago.", "It was well received."),
}
SOURCES = tuple(OPENERS)
