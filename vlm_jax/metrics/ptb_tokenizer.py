"""Penn Treebank tokens as `PTBTokenizer` of pycocoevalcap 1.2 makes them (Stanford CoreNLP 3.4.1
with `-preserveLines -lowerCase`, then the official list of punctuation removed).

Derived from the output of that program alone: every character, every abbreviation of up to five
letters, every apostrophe in short words and all short strings of some alphabets were tried, and the
rules below say what came out. The longest token that any rule finds is taken, the first rule of
equals; a rule may look ahead at text that counts for its length but stays for the next token.

Kept from there: brackets survive as "-lrb-", since the list of punctuation is in upper case;
"surfer's" becomes "surfer 's"; emoji vanish; a number and its fraction, or a telephone number, are
one token with no-break spaces inside.

Deviations: a caption is tokenized by itself, as if an ordinary word followed on the next line,
where the official scorer lets the program look into the next caption and takes other line breaks
than the newline as ends of captions. About 1 in 10,000 random strings of letters, digits and
punctuation is cut differently, such as "T.-s.b."; of captions full of awkward words none in 40,000.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from vlm_jax.metrics.ptb_characters import DIGITS, LETTERS, MARKS, SYMBOLS, character_class

PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
"""Tokens that the official scorer removes. Tokens are in lower case by then, so brackets stay."""

# --- words, as the program keeps them -------------------------------------------------------------

SENTENCE_ABBREVIATIONS = """
    al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc
    ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb
    nev nov oct okla penn ph.d plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va
    vt wed wis wisc wyo
"""
"""Abbreviations that may end a sentence."""

TITLE_ABBREVIATIONS = """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs
    elec ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl
    pfc ph pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
"""
"""Abbreviations that something follows."""

CAPITAL_ABBREVIATIONS = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash"
"""Abbreviations that are words in lower case."""

FILE_ENDINGS = """
    bat bmp c cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png
    ppt ps py sql tar txt wav x xml zip
"""
"""Behind a name that may begin with a digit."""

NUMBERED_ABBREVIATIONS = "art ca fig figs no nos op pp prop"
"""Abbreviations before a number only."""

STARTERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
    More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
    What When While Yet You Mr. Ms.
"""
"""Words before which a single letter with a period is the end of a sentence and no initial."""

HALVES = "can+not gon+na wan+na got+ta lem+me gim+me more+'n 't+is 't+was"
"""Words that are two tokens."""

WITH_APOSTROPHE = "c'mon li'l nat'l e'er ev'ry s'mores nor'easter"

# --- pieces of patterns ---------------------------------------------------------------------------

_L, _D = character_class(LETTERS), character_class(DIGITS)
_ALNUM = f"[{_L}{_D}]"
_APOSTROPHE = "(?:['\u0092\u2019]|&apos;)"
_ANY_APOSTROPHE = "(?:['`\u0091\u0092\u2018\u2019\u201b]|&apos;)"
_LETTER = rf"(?:[{_L}{character_class(MARKS)}\u00ad]|&[aeiouAEIOU](?:acute|grave|uml);)"
_STEM = rf"{_LETTER}(?:{_LETTER}|[{_D}])*"
_WORD = rf"{_STEM}(?:[.!?]{_STEM})*"
_DECIMAL = rf"[{_D}]*(?:[.,:\u00ad\u066b\u066c][{_D}]+)+"
_THING = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?{_ALNUM}+"
_DOTTED = rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-{_ALNUM}+)+"
_HYPHEN = "[-_\u058a\u2010\u2011]"
_SPACE = "[ \u00a0]"
_BODY = r'[^\s"<>|(){}]'  # of addresses
_LAST = r'[^\s"<>|(){}.,!?-]'
_LABEL = r'[^\s"<>|(){}.,!?]+'
_NAME = "[A-Za-z0-9_:.-]*"
_ATTRIBUTE = rf""" +[A-Za-z]{_NAME}(?: *= *(?:'[^']*'|"[^"]*"))?"""
_EYE = "[-^x=~<>']"


def _words(table: str) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, table.split()), key=len, reverse=True)) + ")"


_STARTER = rf"(?:{_words(STARTERS)}|{_words(STARTERS.upper())}|<[/!?]?[A-Za-z-][^<>]*>)"

# --- rules ----------------------------------------------------------------------------------------

Spelling = str | Callable[[str], str]


class Rule(NamedTuple):
    """pattern: what a token looks like; a group named "ahead" is looked at only. spelling: what
    stands for it, "" if nothing, or a function of what was found.
    """

    pattern: str
    spelling: Spelling = str


def _bracketed(token: str) -> str:
    return token.replace("(", "-lrb-").replace(")", "-rrb-")


def _straight(token: str) -> str:
    return re.sub(_APOSTROPHE, "'", token)


def _joined(token: str) -> str:
    return token.replace("\u00ad", "")


def _negation(token: str) -> str:
    return _straight(re.sub("[\u0091\u2018\u201b]", "`", token))


def _plain_quotes(token: str) -> str:
    return token.translate(_QUOTES)


def _unescaped(token: str) -> str:
    return re.sub("(?i)&amp;", "&", token)


def _halves() -> list[Rule]:
    """One rule for each word of `HALVES`: its first half, with the second ahead."""
    pairs = (pair.split("+") for pair in HALVES.split())
    return [Rule(rf"(?i:{first}(?P<ahead>{second}))") for first, second in pairs]


# Of rules that reach equally far the first wins.
RULES = (
    # words
    *_halves(),
    Rule(rf"(?i:{_words(WITH_APOSTROPHE)})"),
    Rule(rf"(?:{_WORD})(?<![nN])(?P<ahead>[nN]{_ANY_APOSTROPHE}[tT])", _joined),
    Rule(rf"[nN]{_ANY_APOSTROPHE}[tT]", _negation),
    Rule(rf"[A-HJ-XZn]{_APOSTROPHE}[{_L}]{{2,}}"),
    Rule(rf"[{_L}]*[{_L}][aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z][A-Za-z]*"),
    Rule(_WORD, _joined),
    Rule(rf"(?:{_WORD})(?P<ahead>{_APOSTROPHE}(?i:[msd]|re|ve|ll)[^A-Za-z])", _joined),
    Rule(rf"{_APOSTROPHE}(?i:[msd]|re|ve|ll)(?![A-Za-z])", _straight),
    Rule("[\u0092\u2019](?i:[msd]|re|ve|ll)", _straight),
    Rule(rf"{_APOSTROPHE}(?i:em|till?|cause|n{_APOSTROPHE}|n(?=\s))"),
    Rule("[\u0092\u2019][nN]"),
    Rule(rf"{_APOSTROPHE}(?:[2-9]0s|[0-9][0-9](?=\s))"),
    Rule(rf"(?:[dljDLJ]|[oO][lL]){_APOSTROPHE}|[yY]{_APOSTROPHE}(?=[A-Za-z])"),
    Rule(rf"(?i:cap{_APOSTROPHE}n|(?:dunkin|somethin){_APOSTROPHE})"),
    Rule("(?i:anti|pro)-"),
    # abbreviations
    Rule(rf"(?i:{_words(SENTENCE_ABBREVIATIONS)})\.(?P<ahead>[\s\S]{{2}})?"),
    Rule(rf"(?i:{_words(TITLE_ABBREVIATIONS)})\."),
    Rule(rf"(?:{_words(CAPITAL_ABBREVIATIONS)}|{_words(CAPITAL_ABBREVIATIONS.upper())})\."),
    Rule(rf"(?i:{_words(NUMBERED_ABBREVIATIONS)})\.(?=\s*[{_D}])"),
    Rule(r"(?:[A-Za-z]\.){2,}"),
    Rule(rf"[A-Za-z](?P<ahead>\.[ \u00a0\t]+{_STARTER}(?=\s))"),
    Rule(r"[A-Za-z]\."),
    # numbers and compounds
    Rule(rf"[+-]?(?:{_DECIMAL}|[{_D}]+)", _joined),
    Rule(rf"(?:[{_D}]{{1,4}}[- \u00a0])?[{_D}]{{1,4}}[/\u2044][{_D}]{{1,4}}"),
    Rule(rf"{_THING}(?:{_HYPHEN}(?:{_THING}))*"),
    Rule(_DOTTED),
    Rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}"),
    Rule(rf"{_ALNUM}+-(?:[A-Za-z]\.){{2,}}"),
    Rule(rf"[{_D}]{{1,2}}[-/][{_D}]{{1,2}}[-/][{_D}]{{2,4}}"),
    Rule(r"[A-Z]+(?:(?:[&+]|&amp;)[A-Z]+)+", _unescaped),
    Rule(rf"[A-Za-z0-9]+\.(?i:{_words(FILE_ENDINGS)})"),
    Rule(
        rf"(?:{_WORD}|{_THING}(?:{_HYPHEN}(?:{_THING}))*|{_DOTTED}|[A-Z]+(?:[&+][A-Z]+)+)\.(?P<ahead>[,:;\u3001])"
    ),
    Rule(
        rf"(?:\([0-9]{{2,3}}\){_SPACE}?|(?:\+\+?)?(?:[0-9]{{2,4}}(?:-|{_SPACE})){{1,2}})"
        rf"[0-9]{{3,4}}(?:-|{_SPACE})?[0-9]{{3,5}}",
        _bracketed,
    ),
    # addresses
    Rule(rf"(?i:https?)://{_BODY}+{_LAST}"),
    Rule(
        rf"(?:(?i:www)\.(?:{_LABEL}\.)+[a-zA-Z]{{2,4}}|(?:[^\s\"<>|(){{}},-_`'!$]+\.)+"
        rf"(?i:com|net|org|edu))(?:/[^\s\"<>|()]+[^\s\"<>|(){{}}.,!?-])?"
    ),
    Rule(rf"<?[A-Za-z0-9]{_BODY}*@(?:[^\s\"<>|(){{}}.]+\.)*[^\s\"<>|(){{}}.]+>?"),
    Rule(r"@[A-Za-z_][A-Za-z_0-9]*"),
    Rule(rf"#[{_L}]+"),
    Rule(r"(?i:c\+\+|[cf]#)"),
    Rule(rf"<[!?][A-Za-z-][^>]*>|</[A-Za-z]{_NAME} *>|<[A-Za-z]{_NAME}(?:{_ATTRIBUTE})* */?>"),
    # punctuation
    Rule(r"[<>]?[:;=][-o*']?[][()DPdpO@\\{|](?![A-Za-z0-9])", _bracketed),
    Rule(rf"{_EYE}_{_EYE}|\((?:{_EYE}[_.]?{_EYE}|[x^=~<>']-[x^=~<>'])\)", _bracketed),
    Rule(r"[!?]{2,}|\*+|_+|##+|@@+|-{5,}|<<|>>|(?:\\\*)+"),
    Rule("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+|[\u2080-\u2089]+"),
    Rule(r"[A-Z]+\$"),
    Rule("\u00ad", "-"),
    Rule("[][(){}]", lambda mark: _BRACKETS[mark]),
    Rule("\u00bc", "1/4"),
    Rule("\u00bd", "1/2"),
    Rule("\u00be", "3/4"),
    Rule("\u2153", "1/3"),
    Rule("\u2154", "2/3"),
    Rule("\u00a2", "cents"),
    Rule("\u00a3", "#"),
    Rule("[\u0080\u00a4\u20a0\u20ac]", "$"),
    Rule("(?i:&lt;)", "<"),
    Rule("(?i:&gt;)", ">"),
    Rule("(?i:&amp;)", "&"),
    Rule("&#[0-9]+;"),
    Rule("(?i:&(?:quot|apos|nbsp|[mn]dash);)", ""),
    Rule("''|-{2,4}", ""),
    Rule("[`\u0082\u0084\u0091-\u0094\u00ab\u00bb\u2018-\u201f\u2039\u203a]{1,2}", _plain_quotes),
    Rule(r"\.{3,}|\.(?: \.){2,}", ""),
    Rule("(?i:-[lr][rcs]b-)"),
    Rule(rf"[$%&*<>\\^|~@#+=/_{character_class(SYMBOLS)}]"),
)

_LINE_BREAK = re.compile("[\\r\\n\\v\\f\u0085\u2028\u2029]")
# What is cut alike whatever follows, except for abbreviations before numbers.
_COMMON = re.compile(
    r"(?:[A-Za-z]{2,}[0-9]*(?:['’-][A-Za-z]+)*[.,;:!?]?|[A-Za-z.,;:!?])(?=[ \n])"
    r"|[0-9]+(?= [A-Za-z]|\n)"
)
_EXCEPTIONS = frozenset(f"{word}." for word in NUMBERED_ABBREVIATIONS.split())
_NEXT_LINE = "\nzz"  # what stands in for the caption after this one
_QUOTES = {
    ord(mark): plain
    for marks, plain in [
        ("\u0091\u2018\u201b\u2039", "`"),
        ("\u0092\u2019\u203a", "'"),
        ("\u0093\u201c\u00ab", "``"),
        ("\u0094\u201d\u00bb", "''"),
    ]
    for mark in marks
}
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}


@cache
def _compiled() -> list[tuple[re.Pattern, Spelling]]:
    """The rules, when they are first needed."""
    return [(re.compile(pattern), spelling) for pattern, spelling in RULES]


def _longest(text: str, position: int) -> tuple[int, str]:
    """(where the token at a position ends, its spelling); "" for a character that is dropped."""
    reach, found, spelling = position, None, ""
    for pattern, spelt in _compiled():
        match = pattern.match(text, position)
        if match and match.end() > reach:
            reach, found, spelling = match.end(), match, spelt
    if not found:
        return position + 1, ""
    end = found.end()
    if "ahead" in found.re.groupindex and found["ahead"] is not None:
        end = found.start("ahead")
    token = text[position:end]
    return end, spelling(token) if callable(spelling) else spelling


def _finished(token: str) -> str:
    """The token in lower case without spaces; "" for punctuation."""
    token = token.lower().replace(" ", "\u00a0")
    return "" if token in PUNCTUATION else token


@lru_cache(maxsize=1 << 16)
def _common_tokens(word: str) -> tuple[str, ...]:
    """The tokens of a word with white space after it."""
    text, position, found = word + _NEXT_LINE, 0, []
    while position < len(word):
        position, token = _longest(text, position)
        found.append(_finished(token))
    return tuple(filter(None, found))


def _tokens(caption: str) -> Iterator[str]:
    text, position = caption + _NEXT_LINE, 0
    while position < len(caption):
        common = _COMMON.match(text, position)
        if common and common[0].lower() not in _EXCEPTIONS:
            yield from _common_tokens(common[0])
            position = common.end()
        elif text[position] == " ":
            position += 1
        else:
            position, token = _longest(text, position)
            yield _finished(token)


def ptb_tokenize(caption: str) -> str:
    """Lower-cased tokens of a caption, joined by single spaces; "" for nothing but punctuation.

    ptb_tokenize("A man's dog (red) isn't happy.") == "a man 's dog -lrb- red -rrb- is n't happy"

    Raises TypeError if `caption` is not a string.
    """
    if not isinstance(caption, str):
        raise TypeError(f"a caption must be a str, not {type(caption).__name__}: {caption!r}")
    caption = _LINE_BREAK.sub(" ", caption)
    return " ".join(token for token in _tokens(caption) if token)
