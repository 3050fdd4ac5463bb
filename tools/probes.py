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


def facts():
    for template, table in FACTS.items():
        pairs = [entry.strip() for entry in table.replace("\n", " ").split(",")]
        pairs = [entry.split("/") if "/" in entry else entry.split() for entry in pairs]
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


def main():
    readers = []
    if sys.argv[1:]:
        from tokenizers import Tokenizer

        readers = [Tokenizer.from_file(path) for path in sys.argv[1:]]
    count = lambda text: [len(reader.encode(text, add_special_tokens=False).ids) for reader in readers]
    single = lambda text: all(n == 1 for n in count(text))
    for category in (facts, negation, ioi):
        rows, left = [], []
        for row in category():
            pairs = [
                (text, foil)
                for text, foil in zip(row.get("corrupted", [None] * len(row["foils"])), row["foils"])
                if single(foil) and (text is None or count(text) == count(row["prompt"]))
            ]
            # Without a match the prompt stays, with a wrong answer and nothing to be patched with.
            pairs = pairs or [(None, foil) for foil in row["foils"] if single(foil)]
            if not single(row["target"]) or not pairs:
                left.append(row["target"].strip())
                continue
            text, foil = pairs[0]
            line = {"prompt": row["prompt"], "corrupted": text, "target": row["target"], "foil": foil}
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
