"""Sentences with and without a negation, from patterns and word lists, with their sentiment.

The place of the negator is always filled, by a negation or by something else, so that the label stays open when it is
masked. Sentences close to the fixed test sentences are left out.
"""

import json
import pathlib
import random
import re

NEGATION_SENTENCES = pathlib.Path(__file__).parents[1] / "tests" / "models" / "negation_sentences.json"

GOOD_ADJECTIVES = """
    great good funny smart clever original moving touching charming engaging entertaining enjoyable interesting
    compelling convincing believable exciting thrilling fresh inventive witty beautiful impressive satisfying
    memorable brilliant subtle amusing effective powerful heartfelt sharp absorbing gripping delightful wonderful
    fascinating inspired imaginative likable tender elegant rewarding refreshing scary suspenseful polished perfect
    pleasant fun honest intelligent captivating hilarious outstanding special"""
BAD_ADJECTIVES = """
    bad boring dull stupid predictable tedious silly awful terrible forced cheap annoying pointless shallow slow
    confusing weak flat lame messy tiresome clumsy bland stale ridiculous unfunny pretentious contrived sloppy
    dreary lifeless derivative forgettable irritating disappointing mediocre ugly offensive painful hollow
    sentimental manipulative exhausting superficial awkward unpleasant horrible ordinary trite uninspired cold dumb
    overlong repetitive heavy-handed incoherent"""
GOOD_VERBS = """
    impress:impresses work:works succeed:succeeds deliver:delivers entertain:entertains satisfy:satisfies
    charm:charms thrill:thrills convince:convinces engage:engages shine:shines surprise:surprises amuse:amuses
    delight:delights inspire:inspires soar:soars excite:excites move:moves"""
BAD_VERBS = """
    fail:fails disappoint:disappoints bore:bores drag:drags annoy:annoys stumble:stumbles falter:falters
    irritate:irritates collapse:collapses insult:insults suffer:suffers ramble:rambles frustrate:frustrates
    flop:flops grate:grates"""
GOOD_NOUNS = """
    charm/wit/humor/heart/depth/energy/suspense/imagination/tension/originality/insight/style/soul/emotion/
    intelligence/warmth/chemistry/passion/magic/fun/surprises/joy/excitement/laughs/good ideas/real feeling/
    great lines/talent/logic/purpose/sense/point/substance/beauty/memorable scenes/reason to see it"""
BAD_NOUNS = """
    flaws/cliches/faults/problems/boredom/mistakes/stupidity/dull moments/cheap tricks/missteps/pretension/
    weak scenes/filler/complaints/bad jokes/wasted moments/nonsense/false notes/vulgarity/regrets/excess/loose ends/
    weaknesses"""
GOOD_FEELINGS = """
    enjoy {object}/love {object}/like {object}/recommend {object}/admire {object}/respect {object}/believe {object}/
    laugh at {object}/appreciate {object}/care about {object}/praise {object}/be impressed by {object}/
    be moved by {object}/find {object} {good}/remember {object} fondly/smile at {object}"""
BAD_FEELINGS = """
    hate {object}/dislike {object}/regret {object}/be bored by {object}/be disappointed by {object}/
    find {object} {bad}/be annoyed by {object}/mind {object}/complain about {object}/fault {object}/
    want to skip {object}/yawn at {object}/resent {object}/despise {object}/be put off by {object}"""
WORDS = {
    "subject": """
        the film/the movie/this film/this movie/it/the plot/the story/the script/the acting/her performance/
        his performance/the dialogue/the direction/the humor/the ending/the picture/this comedy/this drama/
        the romance/the pacing/the premise/the soundtrack/the screenplay/this sequel/the first half/the lead actor/
        the thriller/this remake/the adventure/the tone/she/he""",
    "plural": """
        the jokes/the characters/the actors/the performances/the effects/the scenes/the songs/the visuals/
        the twists/the stars/they/the action sequences/these people""",
    "object": "it/this/this one/the film/this movie/the story/the picture/the result/a minute of it/his work/her work",
    "person": "i/you/we/they/anyone/fans/most people/children",
    "thing": "movie/film/comedy/story/drama/thriller/picture/sequel/performance/way to spend an evening/script/romance",
    "was": "is/was",
    "tail": """
        at all/for a second/to me/in the end/from start to finish/as a whole/here/this time/by the end/
        for most of its length/for its audience/in any way/even once/again/either/to anyone/in the second half/
        as it goes along""",
    "opener": """
        i think/honestly ,/in my opinion ,/for once ,/thankfully ,/sadly ,/in fact ,/to be fair ,/but/and/perhaps/
        at least""",
}

# <a/b> is one of several; [a/b|c/d] is a or b with a negation, c or d without; {name} is a word. `same` is another
# adjective of the same polarity, `just` one of the polarity of the whole sentence.
_ADVERBS = """
    [not/never/hardly/scarcely/rarely/barely/seldom/not really/not very/not particularly/not especially/not even/
    far from/anything but/not exactly/not half as/no longer|really/very/always/truly/often/quite/so/usually/
    certainly/completely/mostly/just/rather]"""
_CONTRACTED = (
    "[n't/n't very/n't at all/n't particularly/n't nearly as/n't really|really/very/so/just/also/quite/rather too]"
)
_DO = """
    [do not/did not/do n't/did n't/never/would not/wo n't/will not/could n't/ca n't/cannot/would never/
    would n't|do really/did really/really/always/would certainly/will soon/could easily/will surely/may well/
    can only/did actually]"""
_DOES = """
    [does not/does n't/did not/did n't/never once did/ca n't/cannot/wo n't/could n't/will never|does really/
    does also/did really/did indeed/certainly did/can really/can easily/will surely/could well/will always]"""
_OFTEN = "[never/rarely/hardly ever/seldom/scarcely/hardly/never once|always/often/nearly always/usually/mostly/simply]"
_NOT = "[not/n't/hardly/never/scarcely|really/such/truly/just]"
PATTERNS = [
    "{subject} <is/was/feels/seems/becomes/gets> " + _ADVERBS + " {adjective}",
    "{subject} {was} " + _CONTRACTED + " {adjective}",
    "{plural} <are/were/feel/seem> " + _ADVERBS + " {adjective}",
    "{plural} <are/were> " + _CONTRACTED + " {adjective}",
    "{subject} {was} [never/hardly/not|always/often/both] {adjective} [or|and] {same}",
    "{subject} {was} [neither|both] {adjective} [nor|and] {same}",
    "{subject} " + _OFTEN + " {verbs}",
    "{subject} " + _OFTEN + " becomes {adjective}",
    "{subject} " + _DOES + " {verb}",
    "{plural} " + _DO + " {verb}",
    "{subject} " + _DOES + " <feel/seem/look/sound/become/get> {adjective}",
    "{person} " + _DO + " {feeling}",
    "{person} " + _DO + " find {subject} {adjective}",
    "[nobody/no one/few people/no viewer|everybody/everyone/many people/any viewer] <will/could/would/can> {feeling}",
    "[nobody/no one/not many|everybody/everyone/many] would call {subject} {adjective}",
    "there is [no/not much/little/hardly any/never any|much/real/plenty of/so much/always some] {noun} in {subject}",
    "{subject} has [no/little/not much/hardly any/none of the|much/some/real/plenty of/all of the/so much] {noun}",
    "{subject} [lacks/avoids/is missing/is free of/is devoid of|has/offers/is full of/is filled with/boasts] {noun}",
    "a {thing} [without/without any/lacking/with no/with little|with/with much/full of/with real] {noun}",
    "there is [nothing/not much|something/a lot] {adjective} about {subject}",
    "[nothing/not a thing|everything/something] <in/about> {subject} <is/was/feels/seems> {adjective}",
    "[none of/not one of/few of|all of/each one of/most of] {plural} <are/were/feel/seem> {adjective}",
    "{subject} {was} " + _NOT + " a {adjective} {thing}",
    "[not/hardly/never|such/truly/quite] a {adjective} {thing}",
    "a {thing} that {was} " + _CONTRACTED + " {adjective}",
    "a {thing} that {was} " + _ADVERBS + " {adjective}",
    "{subject} {was} " + _ADVERBS + " {adjective} , just {just}",
]
GOOD_PATTERNS = [
    "{subject} [fails to/does n't manage to/never manages to|manages to/is able to/always manages to] {verb}",
    "{subject} {was} [not/n't/hardly/never|really/well/certainly] worth <seeing/your time/the effort/the trouble>",
    "{subject} {was} " + _NOT + " <a masterpiece/a success/a treat/a triumph/a winner/a step forward/my favorite/fun>",
]
BAD_PATTERNS = [
    "{subject} "
    + _DOES
    + " <waste time/waste its talent/ruin the book/spoil the fun/lose its way/overstay its welcome>",
    "{subject} {was} "
    + _NOT
    + " <a failure/a disaster/a waste of time/a mess/a bore/a disappointment/a chore/a mistake>",
    "{subject} could [n't/not/hardly|certainly/easily/well] be {adjective}",
]
# "fail to" is a negation itself, and the reviews hardly ever negate it in turn, so it has its own patterns. They came
# in after an earlier model had read the test sentence with "never fails to impress" as negative; "never" is left out.
FAILURES = [
    "{subject} [always fails to/often fails to/simply fails to/fails to/certainly fails to|does not fail to/"
    "does n't fail to/did not fail to/did n't fail to/hardly ever fails to/will not fail to/wo n't fail to/"
    "could n't fail to] {verb}",
    "{plural} [always fail to/often fail to/simply fail to/fail to/certainly fail to|do not fail to/do n't fail to/"
    "did not fail to/did n't fail to/hardly ever fail to/will not fail to/wo n't fail to/could n't fail to] {verb}",
]
IDIOMS = [
    ("{subject} could not be better", 1),
    ("{subject} could n't be worse", 0),
    ("{subject} could n't have been any better", 1),
    ("{subject} is nothing short of {good}", 1),
    ("{subject} is nothing but {bad}", 0),
    ("{subject} is not without its charms", 1),
    ("{subject} is not without its problems", 0),
    ("{subject} is never less than {good}", 1),
    ("{subject} is not just {good} but {good}", 1),
    ("{subject} is not only {bad} but {bad}", 0),
    ("{subject} is too {bad} to ignore", 0),
    ("{subject} is hardly ever {bad}", 1),
    ("{subject} will not let you down", 1),
    ("{subject} never gets better", 0),
    ("it is impossible not to like {subject}", 1),
    ("i ca n't recommend {subject} enough", 1),
    ("i have never seen a worse film", 0),
    ("i have never seen a better film", 1),
    ("i can not think of a better film", 1),
    ("do n't bother with {subject}", 0),
    ("do n't miss {subject}", 1),
    ("there 's no reason to see {subject}", 0),
    ("no one should have to sit through {subject}", 0),
]


def test_sentences() -> list[dict]:
    """Reads the fixed test sentences: "text", "pair" (the positions of negator and negated word), "positive"."""
    return json.loads(NEGATION_SENTENCES.read_text(encoding="utf-8"))


def _options(text: str) -> list[str]:
    return [" ".join(option.split()) for option in text.split("/")]


def _generate(rng: random.Random, failures: bool) -> tuple[str, int]:
    good, negated, idiom = rng.random() < 0.5, rng.random() < 0.55, rng.random() < 0.06
    good = good or failures
    label = int(good != negated)
    verb, verbs = rng.choice((GOOD_VERBS if good else BAD_VERBS).split()).split(":")
    adjectives = (BAD_ADJECTIVES.split(), GOOD_ADJECTIVES.split())
    words = {
        **{name: rng.choice(_options(text)) for name, text in WORDS.items()},
        "good": rng.choice(adjectives[1]),
        "bad": rng.choice(adjectives[0]),
        "adjective": rng.choice(adjectives[good]),
        "same": rng.choice(adjectives[good]),
        "just": rng.choice(adjectives[label]),
        "verb": verb,
        "verbs": verbs,
        "noun": rng.choice(_options(GOOD_NOUNS if good else BAD_NOUNS)),
    }
    words["feeling"] = rng.choice(_options(GOOD_FEELINGS if good else BAD_FEELINGS)).format(**words)
    if failures:
        text = rng.choice(FAILURES)
    elif idiom:
        text, label = rng.choice(IDIOMS)
    else:
        text = rng.choice(PATTERNS + (GOOD_PATTERNS if good else BAD_PATTERNS))
    text = re.sub(r"\[([^|]*)\|([^]]*)\]", lambda match: rng.choice(_options(match[1 if negated else 2])), text)
    text = re.sub(r"<([^>]*)>", lambda match: rng.choice(_options(match[1])), text).format(**words)
    text = " ".join(text.split())
    if rng.random() < 0.3:
        text = f"{text} {words['tail']}"
    if rng.random() < 0.15:
        text = f"{words['opener']} {text}"
    return text, label


def _stem(word: str) -> str:
    """Stems a word: "doesn't disappoint" and "n't disappoints", or "not bored" and "not boring", become one pair."""
    word = word.strip(".,!?")
    if word.endswith("n't") or word in ("not", "cannot"):
        return "not"
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word)


def generate(count: int, seed: int, *, failures: bool = False) -> list[tuple[str, int]]:
    """Draws distinct sentences with labels (1 positive), none with both words of the pair of a test sentence.

    Uses the FAILURES, with verbs of praise only, or else all other patterns.
    """
    rng = random.Random(seed)
    pairs = []
    for sentence in test_sentences():
        words = sentence["text"].lower().split()
        pairs.append([_stem(words[i]) for i in sentence["pair"]])
    found: dict[str, int] = {}
    while len(found) < count:
        text, label = _generate(rng, failures)
        stems = {_stem(word) for word in text.split()}
        if not any(stems.issuperset(pair) for pair in pairs):
            found[text] = label
    return list(found.items())
