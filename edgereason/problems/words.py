"""The words that the problems are made of, and how a wording with slots becomes a sentence."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

_Word = TypeVar("_Word")

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def _words(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _nouns(words: str) -> tuple[tuple[str, str], ...]:
    """(singular, plural) of each word; a plural that is not "s" appended stands after a slash."""
    parts = (word.partition("/") for word in words.split())
    return tuple((singular, plural or f"{singular}s") for singular, _, plural in parts)


HE = _words(
    "Tom Ben Sam Max Leo Jack Noah Liam Omar Ravi Luis Carlos Hugo Felix Oscar Adam Daniel Peter Paul Mark Luke "
    "John James David Eric Frank George Henry Ivan Jonas Karl Lars Mateo Nico Otto Pablo Quinn Robert Simon Thomas "
    "Victor Walter Yusuf Ali Hassan Kofi Kenji Wei Arjun Diego Ethan Logan Mason Jacob Aiden Caleb Dylan Isaac "
    "Kevin Brian Tony Bill Alex Andre Bruno Carl Chen Connor Emil Finn Gabriel Greg Harry Hiro Ian Jamal Jason Jim "
    "Joe Josh Juan Kyle Marco Mike Nathan Neil Oliver Owen Patrick Philip Raj Rick Roy Ryan Scott Sean Stefan Steve "
    "Ted Tim Will Zack"
)

SHE = _words(
    "Mia Anna Emma Lily Zoe Ava Ella Nora Lucy Ruth Sara Maria Rosa Elena Ines Priya Aisha Fatima Leila Mei Yuki "
    "Hana Amy Beth Clara Diana Eva Fiona Grace Helen Iris Jane Kate Laura Molly Nina Olga Paula Rachel Sophie Tina "
    "Uma Vera Wendy Yara Alice Chloe Daisy Freya Gloria Heidi Julia Karen Linda Nadia Olivia Petra Sonia Tessa Mary "
    "Susan Carla Abby Alma Amina Andrea Bella Betty Camila Cathy Claire Dora Ellen Elsa Erin Flora Gina Hannah Ida "
    "Isabel Ivy Jasmine Jenny Jill Joan Katie Kim Layla Lena Lisa Luna Maya Megan Mira Naomi Pam Rita Rosie Ruby "
    "Sally Stella Violet"
)

NAMES = tuple(name for pair in zip(HE, SHE, strict=True) for name in pair)

# What people own, count, give away and share.
THINGS = _nouns(
    "apple pear orange banana lemon plum peach/peaches cherry/cherries grape melon mango/mangoes carrot "
    "potato/potatoes tomato/tomatoes onion egg cookie cake muffin candy/candies chocolate lollipop donut "
    "sandwich/sandwiches pencil pen marker crayon eraser notebook book comic magazine postcard stamp sticker card "
    "photo coin marble button bead shell stone feather leaf/leaves flower rose tulip seed nut balloon kite ball "
    "doll toy puzzle block brick ribbon badge ticket key candle cup plate bottle hat scarf/scarves sock shirt robot "
    "whistle flag poster brush/brushes magnet game pumpkin strawberry/strawberries pepper biscuit bun bagel pie "
    "pancake walnut peanut olive dish/dishes glass/glasses spoon fork ring bracelet crown mask lantern bulb drum "
    "bell car truck boat train plane bike wheel tire tool nail screw stick log rock pebble pinecone worm fish/fish "
    "duck hen rabbit sheep/sheep goat horse cow"
)

FOOD = frozenset(
    _words(
        "apple pear orange banana lemon plum peach cherry grape melon mango carrot potato tomato onion egg cookie cake "
        "muffin candy chocolate lollipop donut sandwich nut pumpkin strawberry pepper biscuit bun bagel pie pancake "
        "walnut peanut olive"
    )
)

# What is sold at a price.
GOODS = _nouns(
    "book pen notebook hat ball shirt mug lamp puzzle toy ticket plant poster scarf/scarves bag game kite doll cake "
    "pizza sandwich/sandwiches melon basket candle rope brush/brushes calendar map clock bowl belt cap towel"
)

CONTAINERS = _nouns("box/boxes bag basket jar packet tray shelf/shelves drawer crate bucket case carton row pile")

PEOPLE = _words("children friends students cousins neighbors classmates players pupils visitors teammates")

COLORS = _words("red blue green yellow white black orange purple brown pink")

PLACES = _words("shop market school library farm park museum club kitchen garden office bakery")

NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def sample_words(rng: random.Random) -> dict[str, str]:
    """A word for every slot, those that belong together chosen together."""
    names = _sample(rng, NAMES, 3)
    he, him, his = ("he", "him", "his") if names[0] in HE else ("she", "her", "her")
    [(item, items)] = _sample(rng, THINGS)
    [(box, boxes)] = _sample(rng, CONTAINERS)
    (good, goods), (thing, _) = _sample(rng, GOODS, 2)
    color, hue = rng.sample(COLORS, 2)
    return {
        "name": names[0],
        "other": names[1],
        "third": names[2],
        "he": he,
        "him": him,
        "his": his,
        "she": "he" if names[1] in HE else "she",
        "item": item,
        "items": items,
        "box": box,
        "boxes": boxes,
        "good": good,
        "goods": goods,
        "thing": thing,
        "people": rng.choice(PEOPLE),
        "color": color,
        "hue": hue,
        "place": rng.choice(PLACES),
        "number": (number := rng.choice(NUMBERS)),
        "digits": str(NUMBERS.index(number) + 1),
        "day": rng.choice(DAYS),
    }


def _sample(rng: random.Random, pool: Sequence[_Word], count: int = 1) -> list[_Word]:
    """`count` different words of the pool, its first ones far more often, as in any language.

    A model learns to copy from the question with the few frequent words, and then extends it to the rare ones; were all
    words equally rare, it would not begin.
    """
    found: list[_Word] = []
    while len(found) < count:
        word = pool[int(len(pool) * rng.random() ** 3)]
        if word not in found:
            found.append(word)
    return found


def choose(rng: random.Random, template: str) -> str:
    """Settle every `[one|another]`, innermost first."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), template)
    return template


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace every `{slot}` by its value; a slot that starts with a capital letter starts a sentence."""

    def value(match: re.Match[str]) -> str:
        slot = match.group(1)
        return values[slot] if slot in values else values[slot.lower()].capitalize()

    return _SLOT.sub(value, template)
