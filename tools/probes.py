"""Writes probes/*.jsonl, the prompt sets of `thermoscope scan`.

    python tools/probes.py [TOKENIZER.json ...]

What is true is written here by hand; what has a pattern is generated. With tokenizers (of model folders), rows whose answers are
not single tokens of every one of them, or whose corrupted prompt differs in length, are told and left out.
"""

import json
import random
import sys
from pathlib import Path

FACTS = {
    "The capital of {} is": """France Paris, Spain Madrid, Italy Rome, Germany Berlin, Japan Tokyo, China Beijing, Russia Moscow, Egypt Cairo,
        Greece Athens, Portugal Lisbon, Ireland Dublin, Austria Vienna, Poland Warsaw, Hungary Budapest, Sweden Stockholm, Norway Oslo,
        Finland Helsinki, Denmark Copenhagen, Belgium Brussels, Turkey Ankara, Iran Tehran, Iraq Baghdad, Syria Damascus, Lebanon Beirut,
        Jordan Amman, Kenya Nairobi, Cuba Havana, Peru Lima, Chile Santiago, Canada Ottawa, Australia Canberra, Thailand Bangkok,
        Vietnam Hanoi, Afghanistan Kabul, Pakistan Islamabad, Bangladesh Dhaka, Nepal Kathmandu, Libya Tripoli, Tunisia Tunis, Ghana Accra,
        Uganda Kampala, Romania Bucharest, Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Qatar Doha, Scotland Edinburgh, Wales Cardiff,
        Venezuela Caracas, Ecuador Quito""",
    "The capital of the state of {} is": """Georgia Atlanta, Texas Austin, Massachusetts Boston, Colorado Denver, Arizona Phoenix,
        Ohio Columbus, Hawaii Honolulu, Tennessee Nashville, Illinois Springfield, Virginia Richmond, California Sacramento,
        Wisconsin Madison, Oregon Salem, Nebraska Lincoln, Washington Olympia, Vermont Montpelier""",
    "The {} is in the city of": """Eiffel Tower/Paris, Colosseum/Rome, Louvre/Paris, Brandenburg Gate/Berlin, Kremlin/Moscow,
        Sagrada Familia/Barcelona, Acropolis/Athens, Taj Mahal/Agra, Hagia Sophia/Istanbul, Burj Khalifa/Dubai, Uffizi Gallery/Florence,
        Prado museum/Madrid, Rijksmuseum/Amsterdam, Charles Bridge/Prague, Space Needle/Seattle, Willis Tower/Chicago,
        Liberty Bell/Philadelphia, Forbidden City/Beijing, Rialto Bridge/Venice, Tower Bridge/London, Little Mermaid statue/Copenhagen,
        CN Tower/Toronto, Gateway of India/Mumbai, Red Fort/Delhi, Bolshoi Theatre/Moscow, Alamodome/San, Fenway Park/Boston,
        Bellagio fountain/Las, Royal Albert Hall/London, Sensoji temple/Tokyo""",
    "{} is famous in the sport of": """Michael Jordan/basketball, Lionel Messi/football, Roger Federer/tennis, Tiger Woods/golf,
        Babe Ruth/baseball, Wayne Gretzky/hockey, Serena Williams/tennis, Kobe Bryant/basketball, Tom Brady/football, Muhammad Ali/boxing,
        LeBron James/basketball, Rafael Nadal/tennis, Cristiano Ronaldo/football, Derek Jeter/baseball, Mike Tyson/boxing,
        Sachin Tendulkar/cricket, Jack Nicklaus/golf, Novak Djokovic/tennis, Magnus Carlsen/chess, Michael Phelps/swimming""",
    "A baby {} is called a": """dog puppy, cat kitten, cow calf, sheep lamb, horse foal, goat kid, kangaroo joey, lion cub, deer fawn,
        pig piglet, frog tadpole, duck duckling, hen chick""",
    "The chemical symbol for {} is": """gold Au, silver Ag, iron Fe, sodium Na, lead Pb, helium He, oxygen O, carbon C, calcium Ca,
        copper Cu, tin Sn, zinc Zn, lithium Li, neon Ne, nickel Ni, uranium U, potassium K, mercury Hg, aluminum Al, silicon Si,
        magnesium Mg, chlorine Cl, titanium Ti, nitrogen N, hydrogen H, sulfur S, tungsten W, phosphorus P, manganese Mn""",
    "The color of {} is usually": """ripe bananas/yellow, grass/green, blood/red, snow/white, coal/black, the daytime sky/blue,
        carrots/orange, ripe lemons/yellow, emeralds/green, rubies/red, sapphires/blue, chocolate/brown, flamingos/pink, eggplants/purple,
        milk/white, soot/black, spinach/green, ravens/black, sunflowers/yellow, tree bark/brown""",
    "{} is made from": """wine grapes, cheese milk, paper wood, glass sand, chocolate cocoa, tofu soy, cider apples, sake rice, bread flour,
        popcorn corn, ketchup tomatoes, steel iron, plywood wood, yogurt milk, tequila agave""",
    "The company that makes the {} is": """iPhone/Apple, Windows operating system/Microsoft, PlayStation/Sony, Mustang/Ford, Corolla/Toyota,
        Civic/Honda, Galaxy phone/Samsung, Kindle/Amazon, Photoshop program/Adobe, GameCube/Nintendo, Walkman/Sony, 747 airplane/Boeing,
        Prius/Toyota, Xbox/Microsoft, Pentium processor/Intel, Gmail service/Google, GeForce graphics card/Nvidia, Macintosh/Apple,
        Barbie doll/Mattel, A380 airplane/Airbus""",
    "The opposite of {} is": """hot cold, up down, big small, fast slow, rich poor, wet dry, hard soft, happy sad, young old, early late,
        full empty, strong weak, left right, north south, east west, day night, high low, love hate, war peace, true false, good bad,
        thick thin, sweet sour, tall short, near far, begin end, inside outside, buy sell, win lose, first last""",
    "{} was written by": """Hamlet/William, Oliver Twist/Charles, Emma/Jane, Moby Dick/Herman, The Raven/Edgar, Ulysses/James,
        Animal Farm/George, War and Peace/Leo, Tom Sawyer/Mark, Frankenstein/Mary, Harry Potter/J, The Stranger/Albert, Dracula/Bram""",
    "In {}, most people speak": """Brazil Portuguese, Mexico Spanish, Argentina Spanish, Morocco Arabic, Holland Dutch,
        Israel Hebrew, Ukraine Ukrainian, Korea Korean, Colombia Spanish, Algeria Arabic""",
}

KINDS = {
    "fish": "trout salmon tuna cod herring carp mackerel",
    "bird": "robin eagle sparrow owl crow swan penguin",
    "insect": "ant bee wasp moth beetle grasshopper mosquito",
    "tree": "oak pine maple birch willow cedar elm",
    "flower": "rose tulip lily daisy orchid violet daffodil",
    "fruit": "apple pear peach cherry banana mango plum",
    "vegetable": "carrot cabbage spinach onion broccoli lettuce celery",
    "metal": "iron copper tin silver zinc nickel lead",
    "color": "red blue green yellow purple pink brown",
    "sport": "tennis soccer golf hockey baseball rugby volleyball",
    "dance": "ballet tango waltz salsa polka flamenco",
    "tool": "hammer saw wrench screwdriver drill shovel axe",
    "clothing": "shirt jacket coat dress skirt sweater",
    "furniture": "chair table sofa desk wardrobe bookcase",
    "weapon": "sword spear rifle pistol cannon dagger",
    "boat": "canoe kayak ferry yacht raft gondola",
    "cheese": "cheddar brie gouda parmesan mozzarella feta",
    "bread": "baguette bagel ciabatta pita rye sourdough",
    "dog": "poodle beagle terrier bulldog dachshund collie",
    "snake": "cobra python viper rattlesnake anaconda",
    "instrument": "violin piano flute guitar trumpet cello drum",
    "gas": "oxygen helium nitrogen hydrogen neon argon",
    "game": "chess poker checkers bingo dominoes",
    "music": "jazz blues reggae opera techno gospel",
    "grain": "wheat rice barley oats maize",
}

NAMES = """Mary John Tom James Dan Sarah Anna David Mark Peter Paul Kate Laura Alex Robert Michael Susan Linda Emma Jack Henry Alice
    George Jane Frank Helen Martin Ruth Simon Lucy Adam Rachel Kevin Julia Brian Grace Scott Amy Eric Lisa""".split()
IOI = [
    "When {a} and {b} walked home from the {place}, {s} handed the {thing} to",
    "After {a} and {b} had left the {place}, {s} offered the {thing} to",
    "{a} and {b} met at the {place}, and then {s} passed the {thing} to",
    "Because {a} and {b} were late for the {place}, {s} quickly threw the {thing} to",
]
PLACES = "market station library theatre beach school museum garden office harbor".split()
THINGS = "ticket umbrella letter camera basket key blanket lamp ring map".split()


# Objects with states, for sentences about one of two. Every two that stand side by side make a group.
THINGS_WITH_STATES = """lamp on off, door open closed, window open shut, engine hot cold, bottle full empty, road wet dry, box heavy light,
    rope long short, wall white black, light red green, gate open locked, tank full empty, oven hot cold, floor clean dirty,
    flag blue yellow, bell loud quiet, table round square, blade sharp dull, bridge safe broken, room bright dark, cup warm cold,
    bag big small, drum loud soft, shirt clean dirty, river deep shallow, stone smooth rough, card black red, fence high low,
    shop open closed, screen bright dark, soup hot cold, tea sweet bitter, coat thick thin, pillow soft hard, bread fresh stale,
    milk fresh sour, apple ripe rotten, glass clear cloudy, sky clear gray, street busy quiet, hall crowded empty, train late early,
    ladder steady loose, nail straight bent, wire thick thin, paint wet dry, towel wet dry, hill steep flat, path narrow wide,
    tunnel narrow wide, lake calm rough, wind strong weak, signal strong weak, battery full dead, phone new old, car new old,
    house new old, chair soft hard, mirror clean dirty, pan hot cold, ice thick thin, plant alive dead, fish alive dead,
    dog awake asleep, cat awake asleep, baby awake asleep, guard awake asleep, king young old, judge kind strict,
    teacher kind strict, story true false, report true false, claim true false, clock fast slow, machine fast slow, boat fast slow,
    valve open closed, drawer open closed"""

OBJECTS = """lamp map book hat cup key coin knife ball brush flute drum rope chair mirror clock candle pencil bottle basket ring scarf
    hammer shovel guitar letter blanket wallet helmet ladder""".split()
COLOURS = "red blue green yellow black white brown pink purple gray".split()

NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
# What is counted, and the words for more and for fewer of it.
COUNTED = [
    ("The trip takes {} than {} hours; it takes", "longer", "shorter"),
    ("The child is {} than {} years; the child is", "older", "younger"),
    ("There are {} than {} apples in the bowl; the number of apples is", "more", "fewer"),
    ("The stone weighs {} than {} pounds; it weighs", "more", "less"),
    ("The meeting began {} than {} this evening; it began at", "later", "earlier"),
    ("The plant is {} than {} inches; it measures", "taller", "shorter"),
    ("The ticket costs {} than {} dollars; it costs", "more", "less"),
    ("Her score was {} than {} points; the number of points was", "higher", "lower"),
    ("The pond is {} than {} feet; its depth in feet is", "deeper", "shallower"),
    ("The team won {} than {} games; the number of games it won is", "more", "fewer"),
    ("He slept {} than {} hours; the number of hours was", "longer", "shorter"),
    ("The temperature is {} than {} degrees; in degrees it is", "higher", "lower"),
    ("The class has {} than {} students; the number of students is", "more", "fewer"),
    ("The rope is {} than {} meters; in meters it measures", "longer", "shorter"),
    ("They planted {} than {} trees; the number of trees is", "more", "fewer"),
    ("The road is {} than {} miles; in miles it runs", "longer", "shorter"),
    ("She read {} than {} books; the number of books she read is", "more", "fewer"),
    ("The tower is {} than {} floors; the number of floors is", "taller", "shorter"),
    ("The dog is {} than {} pounds; its weight in pounds is", "heavier", "lighter"),
    ("We waited {} than {} minutes; the number of minutes was", "longer", "shorter"),
]

# What is said of things, and how sure the speaker is of it; both of a row in as many tokens.
SURENESS = [
    ("I doubt that anyone knows if the {0} is {1}. I would say it is", "I know that everyone sees that the {0} is {1}. I would say it is"),
    ("I cannot be certain, but I think the {0} is", "I can be certain, and I know the {0} is"),
    ("The {0} looks {1}, but I might be wrong. The {0} is", "The {0} looks {1}, and I cannot be wrong. The {0} is"),
    ("We have not checked if the {0} is {1}. It is", "We have just checked that the {0} is {1}. It is"),
    ("I can only guess that the {0} is {1}; it is", "I can fully prove that the {0} is {1}; it is"),
]
HEDGES = "probably perhaps possibly maybe likely".split()
PLAIN = "certainly definitely clearly surely indeed".split()


def entries(table):
    """Subjects and answers."""
    pairs = [entry.strip() for entry in table.replace("\n", " ").split(",")]
    return [entry.split("/") if "/" in entry else entry.split() for entry in pairs]


def facts():
    for template, table in FACTS.items():
        pairs = entries(table)
        for at, (subject, answer) in enumerate(pairs):
            # The wrong answer is the right one of the next subject that has another.
            order = pairs[at + 1 :] + pairs[:at]
            others = [other for other in order if other[1] != answer and other[1].lower() not in template.lower()]
            say = lambda subject: (lambda text: text[0].upper() + text[1:])(template.format(subject))
            yield {
                "prompt": say(subject),
                "corrupted": [say(other) for other, _ in others],
                "target": " " + answer,
                "foils": [" " + other for _, other in others],
                "group": subject,
            }


def negation():
    kinds = list(KINDS)
    for at, (kind, members) in enumerate(KINDS.items()):
        for number, member in enumerate(members.split()):
            wrong = kinds[(at + 1 + (number + 3) * 5) % len(kinds)]
            wrong = wrong if wrong != kind else kinds[(at + 1) % len(kinds)]
            # What is denied is the wrong kind; said without the denial, it would be the likely one.
            say = lambda what: f"{what[0].upper() + what[1:]} is not a kind of {wrong} but a kind of"
            yield {"prompt": say(member), "target": " " + kind, "foils": [" " + wrong], "group": member}


def ioi():
    pairs = [(a, b) for at, a in enumerate(NAMES) for b in NAMES[at + 1 :]]
    for at in range(170):
        # 97 is prime to the number of pairs, so that none comes twice.
        a, b = pairs[at * 97 % len(pairs)]
        c = next(name for name in NAMES[at % len(NAMES) :] + NAMES if name not in (a, b))
        fill = {"place": PLACES[at % 10], "thing": THINGS[at // 10 % 10]}
        template = IOI[at % len(IOI)]
        for giver, other in ((a, b), (b, a)):
            yield {
                "prompt": template.format(a=a, b=b, s=giver, **fill),
                "corrupted": [template.format(a=a, b=b, s=c, **fill)],
                "target": " " + other,
                "foils": [" " + giver],
                "group": f"{a} and {b}",
            }


def states():
    return [entry.split() for entry in THINGS_WITH_STATES.replace("\n", " ").split(",")]


def hedged():
    """Whether what is not known goes on with a hedge, and what is known without one."""
    things = [(thing, state) for thing, *both in states() for state in both]
    for at, (thing, state) in enumerate(things):
        frame = SURENESS[at % len(SURENESS)]
        unsure, sure = [text.format(thing, state) for text in frame]
        order = HEDGES[at % 5 :] + HEDGES[: at % 5]
        turned = PLAIN[at // 5 % 5 :] + PLAIN[: at // 5 % 5]
        pairs = [(hedge, plain) for hedge in order for plain in turned]
        for text, other, first in ((unsure, sure, 0), (sure, unsure, 1)):
            yield {
                "prompt": text,
                "corrupted": [other] * len(pairs),
                "target": [" " + pair[first] for pair in pairs],
                "foils": [" " + pair[1 - first] for pair in pairs],
                "group": f"{thing} {state}",
            }


def greater_than():
    """More than a number, or less than it; numbers are words, for digits are tokens of many lengths."""
    for at, (text, more, less) in enumerate(COUNTED):
        for number in range(2, 10):
            # Near the number and further from it, in turn.
            far = 1 + (at + number) % 2
            above, below = NUMBERS[number + far], NUMBERS[number - far]
            says = [text.format(word, NUMBERS[number]) for word in (more, less)]
            for prompt, other, target, foil in ((*says, above, below), (*says[::-1], below, above)):
                yield {
                    "prompt": prompt,
                    "corrupted": [other],
                    "target": " " + target,
                    "foils": [" " + foil],
                    "group": text.format(more, NUMBERS[number]),
                }


def counterfactual():
    """What a story says against what is known: the wrong answer is the true one."""
    for template, table in FACTS.items():
        pairs = entries(table)
        for at, (subject, answer) in enumerate(pairs):
            order = pairs[at + 1 :] + pairs[:at]
            other, wrong = next(pair for pair in order if pair[1] != answer)
            say = lambda subject: (lambda text: text[0].lower() + text[1:] if text.startswith(("The ", "A ", "In ")) else text)(
                template.format(subject)
            )
            story = "In this story {} {}, and {} {}. So in this story {}"
            yield {
                "prompt": story.format(say(subject), wrong, say(other), answer, say(subject)),
                "corrupted": [story.format(say(subject), answer, say(other), wrong, say(subject))],
                "target": " " + wrong,
                "foils": [" " + answer],
                "group": subject,
            }


def implication():
    """Two rules of which one applies."""
    things = states()
    for at in range(160):
        (sign, *signs), (thing, *ends) = things[at % len(things)], things[(at + 1 + at // len(things) * 3) % len(things)]
        # Which rule is told first, and which sign goes with which end, changes from group to group.
        ends = ends[:: -1 if at % 2 else 1]
        rules = [f"If the {sign} is {signs[which]}, the {thing} is {ends[which]}." for which in (0, 1)][:: -1 if at // 2 % 2 else 1]
        text = " ".join(rules) + " The {} is {}, so the {} is"
        says = [text.format(sign, signs[which], thing) for which in (0, 1)]
        for which in (0, 1):
            yield {
                "prompt": says[which],
                "corrupted": [says[1 - which]],
                "target": " " + ends[which],
                "foils": [" " + ends[1 - which]],
                "group": f"{sign} and {thing}",
            }


def binding():
    """What belongs to which of two."""
    objects = [(a, b) for at, a in enumerate(OBJECTS) for b in OBJECTS[at + 1 :]]
    for at in range(160):
        a, b = objects[at * 43 % len(objects)]
        if at % 2:
            first, second = COLOURS[at % 10], COLOURS[(at + 1 + at // 10 % 8) % 10]
            text = f"The {a} is {first} and the {b} is {second}. The color of the {{}} is"
            says = [text.format(a), text.format(b)]
        else:
            c, d = NAMES[at % len(NAMES)], NAMES[(at * 7 + 3) % len(NAMES)]
            first, second = a, b
            text = f"{c} has a {a} and {d} has a {b}. The thing that {{}} has is a"
            says = [text.format(c), text.format(d)]
        for which, (target, foil) in enumerate(((first, second), (second, first))):
            yield {
                "prompt": says[which],
                "corrupted": [says[1 - which]],
                "target": " " + target,
                "foils": [" " + foil],
                "group": f"{a} and {b}",
            }


def main():
    readers = []
    if sys.argv[1:]:
        from tokenizers import Tokenizer

        readers = [Tokenizer.from_file(path) for path in sys.argv[1:]]
    count = lambda text: [len(reader.encode(text, add_special_tokens=False).ids) for reader in readers]
    single = lambda text: all(n == 1 for n in count(text))
    for category in (facts, negation, ioi, hedged, greater_than, counterfactual, implication, binding):
        rows, left = [], []
        for row in category():
            targets = row["target"] if isinstance(row["target"], list) else [row["target"]] * len(row["foils"])
            answers = [
                (text, target, foil)
                for text, target, foil in zip(row.get("corrupted", [None] * len(targets)), targets, row["foils"])
                if single(target) and single(foil)
            ]
            pairs = [some for some in answers if some[0] is None or count(some[0]) == count(row["prompt"])]
            # Without a match the prompt stays, with a wrong answer and nothing to be patched with.
            pairs = pairs or [(None, *some[1:]) for some in answers]
            if not pairs:
                left.append(targets[0].strip())
                continue
            text, target, foil = pairs[0]
            line = {"prompt": row["prompt"], "corrupted": text, "target": target, "foil": foil}
            line |= {"group": row["group"], "category": category.__name__}
            rows.append({key: value for key, value in line.items() if value is not None})
        # The first prompts of a file are a sample of it, with both of a pair side by side.
        key = {group: random.Random(group).random() for group in {row["group"] for row in rows}}
        rows.sort(key=lambda row: key[row["group"]])
        path = Path(__file__).parent.parent / "probes" / f"{category.__name__}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        groups = len({row["group"] for row in rows})
        print(f"{path.name}: {len(rows)} prompts in {groups} groups; left out: {', '.join(sorted(set(left))) or 'none'}")


if __name__ == "__main__":
    main()
