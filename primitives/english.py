"""The English that the rules know: sets of words, for head nouns and for what describes them, and plurals.

`workers`, `training` and `interchange` read it. Every word outside these sets counts as a noun, because most unknown
words of a caption are nouns. So an adjective must be listed only if it may end a noun phrase ("the cat asleep"), be
used alone ("the red"), or follow a comma ("a small, red hat"). Every word here decides bytes of the tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
# These words open a noun phrase. After a noun they open a new phrase.
DETERMINERS = ARTICLES | _words(
    "this these those some any each every another other both all no my your his her its our their either neither "
    "several many few most more much various multiple numerous"
)
POSSESSIVES = _words("my your his her its our their")
DEMONSTRATIVES = _words("this that these those")
PLURAL_DETERMINERS = _words("these those some both all several many few most various multiple numerous")
NUMERALS = _words(
    "one two three four five six seven eight nine ten eleven twelve dozen half first second third fourth fifth sixth "
    "last next-to-last single double triple"
)
NUMERAL_PATTERN = re.compile(r"\d+(st|nd|rd|th|s)?")
PLURAL_NUMERALS = _words("two three four five six seven eight nine ten eleven twelve dozen")

COLOURS = _words(
    "red orange yellow green blue purple pink brown black white grey gray gold golden silver beige tan teal cyan "
    "magenta maroon turquoise violet lavender cream blonde blond brunette navy khaki burgundy"
)
# These words are shades before a colour ("light blue shirt"). Elsewhere they are nouns or adjectives.
SHADES = _words(
    "light dark bright pale deep navy sky baby lime forest olive royal rose hot neon mint dusty pastel off powder"
)
# These words are places in the picture. After a noun they end the phrase ("man left", "pizza bottom right").
PLACES = _words(
    "left right far top bottom middle center centre front back upper lower rear leftmost rightmost topmost bottommost "
    "left-most right-most foreground background upper-left upper-right lower-left lower-right"
)
ADJECTIVES = (
    COLOURS
    | PLACES
    | _words(
        "big small large little tiny huge tall short long wide thin thick fat skinny slim giant giantic gigantic mini "
        "old young new bigger smaller larger taller shorter longer thinner thicker fatter older younger darker lighter "
        "closer nearer further farther higher brighter close near-by nearest closest best worst "
        "dark bright pale clear shiny dirty clean wet dry hot cold warm fresh ripe raw open closed empty full "
        "half-full asleep awake alone upright visible blurry fuzzy furry fluffy hairy curly curvy wavy straight bald "
        "round oval rectangular plain wooden plastic metallic same different similar identical "
        "happy sad angry pretty cute beautiful handsome fancy nice ugly lovely busy heavy soft hard smooth rough sharp "
        "sunny cloudy snowy rusty dusty grassy rocky sandy muddy leafy tasty juicy creamy crispy messy chubby shaggy "
        "spotty stripy stripey high low deep narrow flat nude naked shirtless topless barefoot pregnant "
        "elderly middle-aged fake real whole entire main multicolored multicoloured multi-colored colorful colourful "
        "loose tight ornate elegant modern classic vintage antique rustic airborne underwater "
        "alike uphill downhill onstage headfirst backwards backward upside-down"
    )
)
SIZES = _words("big small large little tiny huge tall short long wide giant gigantic mini")
PATTERNS = _words("striped dotted spotted checked checkered plain")
ADJECTIVE_SUFFIXES = ("ful", "ous", "less", "ish")
SUPERLATIVE_PATTERN = re.compile(r"[a-z]{3,}est")
NOUNS_IN_EST = _words(
    "forest nest chest vest guest west rest test harvest quest crest contest priest request protest pest tempest zest"
)
NOUNS_LIKE_ADJECTIVES = _words("fish radish dish british finish rubbish varnish relish starfish swordfish jellyfish")
# These adjectives are also nouns: without another noun they are the head of their phrase ("a peeled orange").
ADJECTIVES_OR_NOUNS = _words("orange light gold silver blonde blond brunette one ones others second-hand plastic")

# These are the second words of adjectives of two words: "a funny looking dog".
LINKING_PARTICIPLES = _words(
    "looking shaped colored coloured sized covered lined filled topped coated haired eyed printed faced legged handled "
    "sleeved themed powered flavored flavoured dipped patterned shouldered rimmed framed frosted glazed crusted "
    "painted carved"
)
IRREGULAR_PARTICIPLES = _words(
    "worn held seen shown made cut lit torn broken hung built eaten thrown driven ridden taken drawn written bent laid "
    "caught kept left-over spread sat stood woven frozen sewn grown swept"
)
NOUNS_IN_ING = _words(
    "building painting drawing ceiling ring king string wing thing something anything everything nothing railing "
    "clothing morning evening wedding pudding icing topping stuffing awning siding flooring swing spring earring "
    "dressing bedding frosting crossing stocking duckling gosling sibling opening covering lightning sling sting "
    "viking bling filling seating lettering lighting writing handwriting carving engraving rigging landing herring "
    "offering serving helping keyring seasoning padding piping tubing wiring underling"
)
NOUNS_IN_ED = _words("bed shed seed weed sled reed steed tweed bobsled moped biped feed deed newlywed crossbred speed")
# These participles belong to the noun after them, also behind another noun ("the hotel swimming pool").
GERUND_COMPOUNDS = frozenset(
    {
        *("parking lot", "parking meter", "parking garage", "parking space", "swimming pool", "cutting board"),
        *("dining table", "dining room", "living room", "washing machine", "rocking chair", "sewing machine"),
        *("ironing board", "baking sheet", "frying pan", "shopping cart", "shopping bag", "mixing bowl"),
        *("serving tray", "watering can", "sleeping bag", "folding chair", "reading glasses", "running shoes"),
        *("vending machine", "swimming trunks", "bathing suit"),
    }
)
# The last word of these compounds alone names another thing: a hot dog is not a dog.
FIXED_COMPOUNDS = frozenset(
    {
        *("hot dog", "hot dogs", "corn dog", "corn dogs", "prairie dog", "prairie dogs", "guinea pig", "guinea pigs"),
        *("sea lion", "sea lions", "ice cream", "remote control", "remote controls", "tank top", "crop top"),
    }
)

PREPOSITIONS = _words(
    "of in on at with without by near beside besides behind under over above below between among amongst along across "
    "through from to into onto inside outside around against for about up down off toward towards next during like "
    "than as per via w beneath underneath atop upon past beyond amid alongside within except out away back-to-back "
    "besides indoors outdoors nearby together apart overhead downstairs upstairs sideways ahead opposite "
    "because while when if but so not also just only still then infront after before side-by-side midair whilst"
)
RELATIVES = _words("that which who whom whose where whos what whatever why how")
# If a caption is about one of these pronouns, it has no head noun, and the whole caption is used.
PERSONAL_PRONOUNS = _words("he she him they them me us himself herself themselves itself")
# These words open a caption without content: "it is a dog", "there are two cats", "i can see a bus".
EMPTY_PRONOUNS = _words("it there here i we you nobody everybody everyone someone's you'd")
CONJUNCTIONS = _words("and or & plus nor")
AUXILIARIES = _words(
    "is are was were be been being am has have had having do does did can could may might will would shall should must "
    "appears appear seems seem isn't aren't wasn't doesn't don't didn't can't hasn't ain't wont cant isnt doesnt"
)
# These verbs in base form are verbs after a plural ("people stand"), and nouns after a singular ("hot dog stand").
VERBS = _words(
    "hold wear sit stand ride look eat run walk play fly drive carry jump swim smile lie lay hang show see sleep watch "
    "pull push throw kick hit catch reach lean rest graze drink read talk move go come get take give make use keep "
    "surf ski skate swing pose wait work try prepare perform enjoy stare point touch bite chew lick cross climb feed "
    "cook serve fill cover contain feature depict blow display grow float travel pass enter leave follow chase slide "
    "shine put adorn indicate balance hit do kiss hug approach attempt wrap brush cut dig gather kneel crouch squat "
    "race speak sell snowboard steer toss wade wash wave pick poke glide "
    "leap splash wrestle fight dance compete participate crawl dive shake jog laugh sing sprint bounce emerge frolic "
    "pause start listen pretend practice relax admire stretch sniff gallop greet shoot cheer chat hop grab tug "
    "scream yell march turn converse retrieve fetch pounce tackle raise embrace celebrate attack dribble launch hike "
    "lunge huddle soar tumble trot romp discover parasail stroll struggle sway wander clap stumble spin growl"
)
# A noun and then a word in -s is a noun and a verb if one of these words follows: "a boy bikes down a road".
DIRECTIONS = _words("down into onto through along across over towards up around off past out at to back after while as")
# By their ending these words look like people, and those of `NOUNS_IN_S` like plurals or verbs.
NOUNS_IN_ER = _words("soccer winter summer weather power rubber leather corner center counter dinner number other")
NOUNS_IN_S = _words("tennis sports gymnastics athletics aerobics news christmas karaoke bars ladies mens womens")
ADVERB_PATTERN = re.compile(r"[a-z]{3,}ly")
DEGREES = _words("very too quite really almost so pretty super extra")
NOUNS_IN_LY = _words("family butterfly dragonfly jelly belly lily bully assembly dolly fly ally supply holly firefly")
PARTICLES = _words("up down out off over")
IRREGULAR_PLURALS = _words("people men women children sheep cattle geese police kids mice feet teeth oxen folks")

# Words of `PICTURES`, `QUANTITIES` and `PARTS` are no heads if `of` follows: the head comes after `of`.
PICTURES = _words(
    "photo photograph picture pic image view shot snapshot closeup painting drawing illustration portrait cartoon "
    "sketch rendering render depiction silhouette outline icon clipart screenshot selfie scene photos pictures images"
)
# A "shot" of one of these drinks is no picture.
DRINKS = _words("whiskey whisky bourbon scotch vodka tequila rum gin brandy liquor alcohol sake espresso")
QUANTITIES = _words(
    "pair pairs group groups bunch bunches couple number lot lots row rows pile piles stack stacks set sets herd flock "
    "crowd pack school swarm slice slices piece pieces bit bits chunk scoop kind kinds type types sort variety array "
    "assortment selection collection series trio dozen dozens handful mix mixture line loaf sheet strip strips cluster "
    "team bouquet amount cup-full plenty "
    "hundreds majority gang batch heap clump spoonful family quarter portion portions serving"
)
PARTS = _words("top bottom front back side sides middle center centre half part parts section end edge rest corner")
SHOWING = _words("showing depicting featuring containing shows depicts features contains")

PEOPLE = _words(
    "man woman guy girl boy lady kid person player dude child baby toddler batter catcher pitcher umpire skier surfer "
    "rider skater bride groom chef cop officer mom dad mother father gentleman people men women children kids girls "
    "boys players persons ladies guys babies snowboarder nurse doctor"
)
# Nouns that end a phrase if an adjective follows: "man blue shirt" is about the man, "vintage blue car" is not about
# the vintage. These are the commonest nouns of referring expressions.
KNOWN_NOUNS = PEOPLE | _words(
    "chick fella male-player someone somebody something anything dog cat horse cow sheep elephant giraffe zebra bear "
    "bird duck goat pig lamb puppy kitten pony bull calf animal fish monkey lion tiger car truck bus train bike "
    "bicycle motorcycle boat plane airplane van taxi cab scooter chair table couch sofa bed bench desk stool laptop "
    "computer tv phone monitor screen keyboard mouse remote bottle glass cup bowl plate mug vase book umbrella bag "
    "backpack suitcase hat shirt jacket coat tie shoe shoes dress pants pizza sandwich cake donut banana apple orange "
    "carrot broccoli bread food pillow toilet sink oven fridge refrigerator microwave clock kite frisbee skateboard "
    "surfboard snowboard racket bat ball tree flower plant sign light building house wall window door dish tray box "
    "hand arm leg head"
)

# Other languages have these words too, so the words do not show that a caption is English.
SHARED = _words(
    "in no do me am as for so over van man hand arm ball bus taxi train pizza table orange vase photo bed hat "
    "hotel hospital radio piano video auto motor panda pasta villa plaza patio arena camera melon mango kiwi bar"
)

# In "in a red shirt" and "in red", these clothes and colours describe a person. "In a red room" does not.
CLOTHES = _words(
    "shirt shirts t-shirt tshirt tee-shirt tee jacket jackets coat coats suit suits dress dresses hat hats cap caps "
    "helmet helmets tie ties uniform uniforms jersey jerseys shorts pants jeans trousers skirt vest vests sweater "
    "sweatshirt hoodie clothes clothing outfit outfits costume costumes gear attire wetsuit swimsuit bikini trunks "
    "tuxedo robe apron scarf gown blouse overalls tank top glasses sunglasses goggles shoes boots sandals heels "
    "pajamas kimono raincoat wet-suit red white black blue green yellow orange pink purple brown grey gray"
)
# These plurals name a single thing or pair.
PAIRS = _words(
    "scissors jeans pants trousers shorts glasses sunglasses goggles binoculars tweezers pliers headphones pajamas "
    "overalls skis tongs shears earphones eyeglasses spectacles leggings tights sweatpants panties underpants"
)
# These nouns cannot be counted.
STUFF = _words(
    "snow water food grass sand dirt traffic furniture rice bread meat fruit pasta soup cheese broccoli luggage "
    "clothing hair milk coffee beer wine juice ice mud gravel smoke fog rain bacon salad sauce jewelry equipment "
    "silverware cutlery graffiti concrete asphalt sky ocean sea foliage vegetation greenery produce trash garbage hay "
    "wood stairs bleachers fries"
)
BODY = _words(
    "hand hands arm arms head mouth back shoulder shoulders lap neck face foot feet ear ears nose hair wrist leg legs "
    "trunk beak tail fingers knees chest waist"
)
POSSESSIONS = _words("has have had having")
# These words are about the surroundings: "with trees in the background" is no attribute of the object.
SURROUNDINGS = _words("background distance behind around nearby foreground surrounding")
# These verbs mean something only with their preposition: "looking at the camera".
VERBS_WITH_PREPOSITIONS = frozenset(
    {
        *("looking at", "looking out", "looking down", "looking up", "looking over", "looking for", "looking into"),
        *("looking like", "looking through", "staring at", "talking on", "talking to", "playing with", "covered in"),
        *("dressed in", "dressed as", "leaning on", "leaning against", "waiting for", "reaching for", "working on"),
        *("posing with", "posing for", "pointing at", "getting on", "getting off", "working at", "riding on"),
        *("holding onto", "pointing to", "pointing toward", "cutting through", "reaching into", "mounted on"),
        *("taking off", "putting on", "trying on", "picking up", "holding up", "turning on", "turning off"),
        *("cut into", "preparing for", "going down", "going up", "eating from", "drinking from", "caught in"),
        *("chasing after", "setting up"),
    }
)
PREPOSITIONS_OF_PARTICIPLES = _words("with by to of from")
# These verbs only say that the picture shows the object, or say nothing without more words.
VERBS_OF_PICTURES = _words(
    "shown seen displayed featured pictured taken depicted showing displaying taking putting trying getting making "
    "giving going coming keeping using used picking looking turning shaped colored coloured sized beginning setting"
)
# These verbs after a thing are about the thing: "a man near a sign hanging on a wall".
VERBS_OF_THINGS = _words("hanging leading overlooking flowing saying facing surrounding containing coming pouring")
# After these words, a caption is about something else.
ENDS_OF_DESCRIPTIONS = _words("half while when because but if so whilst as after before ; : .")

_IRREGULAR_PLURALS: Final[Mapping[str, str]] = {
    **{"person": "people", "child": "children", "foot": "feet", "tooth": "teeth", "mouse": "mice", "goose": "geese"},
    **{"ox": "oxen", "knife": "knives", "leaf": "leaves", "loaf": "loaves", "shelf": "shelves", "wolf": "wolves"},
    **{"calf": "calves", "scarf": "scarves", "potato": "potatoes", "tomato": "tomatoes", "thief": "thieves"},
    **{word: word for word in ("fish", "sheep", "deer", "aircraft", "bison", "series", "moose")},
    **{f"{word}man": f"{word}mans" for word in ("hu", "otto", "dober", "talis", "sha", "cai", "ger", "ro")},
}
_PLURALS: Final = IRREGULAR_PLURALS - _IRREGULAR_PLURALS.keys()
_SINGULARS_IN_S: Final = _words("lens gas series iris canvas rhinoceros ibis thermos mantis")


def plural_of(noun: str) -> str:
    """Return the plural of a noun of one word; a plural as it is."""
    if noun in _IRREGULAR_PLURALS or is_plural(noun):
        return _IRREGULAR_PLURALS.get(noun, noun)
    if noun.endswith("man"):
        return f"{noun.removesuffix('man')}men"
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun.removesuffix('y')}ies"
    return f"{noun}s"


def is_plural(noun: str) -> bool:
    """Return whether a noun names several things."""
    last = noun.split()[-1]
    is_regular = last.endswith("s") and not last.endswith(("ss", "us")) and last not in _SINGULARS_IN_S
    return is_regular or last in _PLURALS
