"""Penn Treebank tokenization of captions, as the COCO caption scorers expect it, without Java.

Official scorer: pycocoevalcap 1.2, `tokenizer/ptbtokenizer.py`, which runs the PTBTokenizer of
Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase` and deletes punctuation tokens. Its
behaviour was found by feeding that jar probe sentences; `tests/metrics/ptb_golden.jsonl` holds a
sample of its answers.

Quirks, kept:

    "(x)" -> "-lrb- x -rrb-": lower-casing hides brackets from the upper-case punctuation list
    "no!!" -> "no !!": only single marks are deleted
    "5 1/2" -> one token with U+00A0 inside (also phone numbers and tags): BLEU and CIDEr-D split
        it, ROUGE-L does not
    emoji beyond U+FFFF vanish, those below stay

Deviations:

1. Each caption is tokenized by itself. The official run sees the next caption behind the line
   break, which changes a final "b." if "The", "It", ... follows, and a final "no." or "fig." if
   a digit follows.
2. Any line break inside a caption is a space. Officially only a line feed is; the others shift
   later captions to other images.
3. Letters that joined Unicode after version 6.1 make words. Officially they vanish.
4. Oddities of words glued without spaces may differ, such as several dots before a number
   ("......1990s") and, in Indic scripts, marks that the official tokenizer cuts at.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
"""Tokens deleted after tokenization: pycocoevalcap's list."""

SPLIT_WORDS = "can|not gon|na wan|na got|ta lem|me gim|me 't|is 't|was"
"""Words that are cut in two, and where."""

APOSTROPHE_WORDS = "li'l nat'l c'mon e'er ev'ry s'mores nor'easter"
"""Words that keep their apostrophe."""

CLOSING_ABBREVIATIONS = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn
    tenn va vt wis wisc wyo inc co cos corp ltd plc rt bancorp bhd assn univ intl sys tel est ext sq
    jr sr bros esq etc al seq bldg blvd rd ed.d ph.d
"""
"""Abbreviations that keep their period whatever follows it, in any case."""

CAPITALISED_ABBREVIATIONS = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash"
"""The same, but only with a capital first letter."""

OPENING_ABBREVIATIONS = """
    ft mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov govs adm rev
    maj sgt cpl pvt capt st ste ave pres lieut hon brig comdr cmdr pfc spc supt supts det mt invt
    elec natl dept vs alex wm jos cie cf ph treas adj adv asst assoc ens insp mlle mme msgr sfc
"""
"""Abbreviations that keep their period unless a letter is glued to it."""

NUMBERED_ABBREVIATIONS = "ca fig figs prop no nos art pp op"
"""Abbreviations that keep their period only before a number."""

FILE_ENDINGS = """
    bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl
    png ppt ps py sql tar txt wav x xml zip
"""
"""What makes a file name of words that a period joins."""

SENTENCE_STARTERS = """
    About According Additionally After An A As At But Did During Earlier He Her Here How However If
    In It Last Many More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then
    There These They This We When While What Who Why Yet You
"""
"""Words that begin a new sentence: before them, one-letter acronyms lose their period."""

REWRITTEN = {
    **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$"),
    "\u00a2": "cents",
    "\u00a3": "#",
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "(": "-LRB-",
    ")": "-RRB-",
    "[": "-LSB-",
    "]": "-RSB-",
    "{": "-LCB-",
    "}": "-RCB-",
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
    "\u2026": "...",
}
"""Whole tokens replaced by others: currencies, fractions, brackets, entities."""

STRAIGHT_QUOTES = {
    ord(quote): straight
    for quotes, straight in [
        ("\u0082\u0091\u2018\u201a\u201b\u2039", "`"),
        ("\u0092\u2019\u203a", "'"),
        ("\u0084\u0093\u00ab\u201c\u201e", "``"),
        ("\u0094\u00bb\u201d", "''"),
    ]
    for quote in quotes
}
"""Curly and angled quotes as the Penn Treebank writes them."""

_LINE_BREAK = re.compile("[\\r\\n\\v\\f\u0085\u2028\u2029]")

# Insides of [...].
_SPACE = " \\t\u00a0\u2000-\u200a\u3000"
_SYMBOL = (
    "+%&~^|\\\\\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u037e\u0387"
    "\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f"
    "\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017"
    "\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101"
    "\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b"
    "\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)
_QUOTE = "`\u0082\u0084\u0091-\u0094\u00ab\u00bb\u2018-\u201f\u2039\u203a"


def _category_class(categories: Iterable[str], first: int = 0, last: int = 0xFFFF) -> str:
    """Inside of a [...] that holds the code points in [first, last] of these Unicode categories."""
    found = [unicodedata.category(chr(c)) in categories for c in range(first, last + 1)]
    starts = [i for i, yes in enumerate(found) if yes and not (i and found[i - 1])]
    ends = [i for i, yes in enumerate(found) if yes and not (i + 1 < len(found) and found[i + 1])]
    return "".join(
        f"\\u{first + a:04x}-\\u{first + b:04x}" for a, b in zip(starts, ends, strict=True)
    )


def _one_of(table: str) -> str:
    """Alternation of the words of a table, longest first: none may hide another that it begins."""
    return "|".join(sorted(map(re.escape, table.split()), key=len, reverse=True))


_LETTER = _category_class({"Lu", "Ll", "Lt", "Lm", "Lo"})
_DIGIT = _category_class({"Nd"})
_MARK = _category_class({"Mn", "Mc", "Sk"}, 0x02C2, 0x0ECD)

# Pieces of patterns.
_GAP = rf"[{_SPACE}\r\n]"
_CLAUSE_MARK = "[,;:\u3001]"
_ALNUM = f"[{_LETTER}{_DIGIT}]"
_APOSTROPHE = "(?:['\u0092\u2019]|&apos;)"
_ANY_APOSTROPHE = "(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
_ENDING = "(?:[msdMSD]|(?i:re|ve|ll))"
_SPELLED = rf"(?:[{_LETTER}{_MARK}\u00ad]|&[aeiouAEIOU](?:acute|grave|uml);)"
_STEM = rf"{_SPELLED}(?:{_SPELLED}|[{_DIGIT}])*"
_WORD = rf"{_STEM}(?:[.!?]{_STEM})*"
_NUMBER = rf"(?:[{_DIGIT}]*(?:[.:,\u00ad\u066b\u066c][{_DIGIT}]+)+|[{_DIGIT}]+)"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])*"
_THING = rf"(?:[dDoOlL]{_ANY_APOSTROPHE}{_ALNUM})?{_ALNUM}+"
_TAG_NAME = r"[A-Za-z][\w:.-]*"
_TAG_VALUE = rf"""(?:'[^']*'|"[^"]*"|{_TAG_NAME})"""
_TAG_BODY = rf"{_TAG_NAME}(?: +{_TAG_NAME}(?: *= *{_TAG_VALUE})?)* */?"
_TAG = rf"<(?:[!?][A-Za-z-][^>]*|/{_TAG_NAME}|{_TAG_BODY}) *>"
_ADDRESS = r'[^\s"<>|(){}]'
_ADDRESS_END = r'[^\s"<>|(){}.,!?-]'
_HOST = r'[^\s"<>|(){}.,!?]+\.'
# The range ,-_ also bars upper case and digits: the official tokenizer's slip.
_BARE_HOST = r"""[^\s"<>|(){},-_`'!$]+\."""
_SITE = rf"(?:(?i:www)\.(?:{_HOST})+[a-zA-Z]{{2,4}}|(?:{_BARE_HOST})+(?i:com|net|org|edu))"
_MAILBOX = r'[^\s"<>|(){}.]+'
_EYES, _NOSE, _MOUTH = "[<>]?[:;=]", "[-o*']?", r"[()\[\]{DPdpO\\@|]"
_FACE = "[-^x=~<>']"
_AREA_CODE = r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0]){1,2})"


def _unspaced(token: str) -> str:
    return token.replace(" ", "\u00a0")


def _bracketed(token: str) -> str:
    return _unspaced(token).replace("(", "-LRB-").replace(")", "-RRB-")


def _unhyphenated(token: str) -> str:
    return token.replace("\u00ad", "") if token != "\u00ad" else "-"


def _straightened(token: str) -> str:
    return token.replace("&apos;", "'").translate(STRAIGHT_QUOTES)


def _unescaped(token: str) -> str:
    return token.replace("&amp;", "&")


Rewrite = Callable[[str], Any]

WORD_RULES: tuple[tuple[str, Rewrite | None], ...] = (
    (r"([cC]\+\+|[cCfF]#)", None),
    *((f"((?i:{cut.replace('|', '))(?i:')})", None) for cut in SPLIT_WORDS.split()),
    (rf"({_WORD}){_APOSTROPHE}{_ENDING}", _unhyphenated),
    (rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)[nN]{_ANY_APOSTROPHE}[tT]", _unhyphenated),
    (rf"({_WORD})", _unhyphenated),
    (f"((?i:{_one_of(APOSTROPHE_WORDS)}))", None),
    (rf"((?i:{_APOSTROPHE}(?:em|till?|cause|n{_APOSTROPHE}?)))", None),
    (rf"((?i:ol|somethin|dunkin|[ldj]){_APOSTROPHE})", None),
    (rf"([A-HJ-XZn]{_ANY_APOSTROPHE}[{_LETTER}]{{2,}}|{_APOSTROPHE}[2-9]0s)", None),
    (rf"([{_LETTER}]+[aeiouyAEIOUY]{_ANY_APOSTROPHE}[aeiouA-Z][{_LETTER}]*)", None),
    (rf"([yY]{_APOSTROPHE})[{_LETTER}]", None),
    (rf"({_APOSTROPHE}{_ENDING})[^A-Za-z]", _straightened),
    (rf"([nN]{_ANY_APOSTROPHE}[tT])[^A-Za-z]", _straightened),
    # abbreviations, and acronyms that end a sentence
    (rf"([A-Za-z])\.{_GAP}+(?:{_one_of(SENTENCE_STARTERS)}|{_TAG})(?:{_GAP}|[?!])", None),
    (rf"((?i:{_one_of(CLOSING_ABBREVIATIONS)})\.)[^\0]{{2}}", None),
    (rf"((?:(?i:pp?t)[ey][sS]?|{_one_of(CAPITALISED_ABBREVIATIONS)})\.)[^\0]{{2}}", None),
    (rf"((?:(?i:{_one_of(OPENING_ABBREVIATIONS)})|[mM][ft][gG]|{_ACRONYM})\.)", None),
    (rf"((?i:{_one_of(NUMBERED_ABBREVIATIONS)})\.){_GAP}?[{_DIGIT}]", None),
    (rf"({_WORD}\.){_CLAUSE_MARK}", _unhyphenated),
    # compounds and file names
    (rf"({_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:{_one_of(FILE_ENDINGS)}))(?:{_GAP}|[.?!,\"'<])", None),
    (r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})", None),
    (
        r"([A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+)",
        _unhyphenated,
    ),
    (rf"({_THING}(?:[-_\u058a\u2010\u2011]{_THING})*)", None),
    (rf"({_THING}(?:[-_\u058a\u2010\u2011]{_THING})*\.){_CLAUSE_MARK}", None),
    (r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)", _unescaped),
    (r"((?i:-(?:[lr][rcs]b)-|pro-|anti-))", None),
)

NUMBER_RULES: tuple[tuple[str, Rewrite | None], ...] = (
    (rf"([{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{1,2}}[-/][{_DIGIT}]{{2,4}})", None),
    (rf"([-+]?{_NUMBER})", _unhyphenated),
    (
        r"([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))",
        None,
    ),
    (
        rf"((?:[{_DIGIT}]{{1,4}}[- \u00a0])?[{_DIGIT}]{{1,4}}(?:\\?/|\u2044)[{_DIGIT}]{{1,4}})",
        _unspaced,
    ),
    (rf"({_AREA_CODE}[0-9]{{3,4}}[- \u00a0]?[0-9]{{3,5}})", _bracketed),
    (r"((?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5})", None),
    (rf"({_APOSTROPHE}[0-9][0-9]){_GAP}", None),
    (r"([A-Z]*\$|#)", None),
)

MARK_RULES: tuple[tuple[str, Rewrite | None], ...] = (
    # tags and addresses
    (f"({_TAG})", _unspaced),
    (rf"((?i:https?)://{_ADDRESS}+{_ADDRESS_END})", None),
    (rf"({_SITE}(?:/{_ADDRESS}+{_ADDRESS_END})?)", None),
    (rf"((?:&lt;|<)?[a-zA-Z0-9]{_ADDRESS}*@(?:{_MAILBOX}\.)*{_MAILBOX}(?:&gt;|>)?)", None),
    (rf"(@[a-zA-Z_][a-zA-Z_0-9]*|#[{_LETTER}]+)", None),
    # quotes and dashes, most of them deleted later: what matters is how far they reach
    (rf"(')(?:[{_LETTER}][^{_SPACE}\r\n]|[AaIiUu]{_GAP})", None),
    (rf"({_APOSTROPHE}{_ENDING}|[nN]{_ANY_APOSTROPHE}[tT])", _straightened),
    (r"""("|''|&quot;)""", lambda token: "''"),
    (rf"([{_QUOTE}]{{1,2}}|['\u0092]|&apos;)", _straightened),
    (r"(&(?:MD|mdash|ndash);|[\u0096\u0097\u2013-\u2015])", lambda token: "--"),
    (r"(-+)", lambda token: "--" if 3 <= len(token) <= 4 else token),
    (r"(\.\.\.+|\.[ \u00a0](?:\.[ \u00a0])+\.)", lambda token: "..."),
    # smileys, brackets, symbols
    (rf"({_EYES}{_NOSE}{_MOUTH})[^A-Za-z0-9]", _bracketed),
    (rf"({_FACE}_{_FACE}|\({_FACE}[_.]?{_FACE}\)|\([\^x=~<>']-[\^x=~<>'`]\))", _bracketed),
    (r"(&nbsp;)", lambda token: ""),
    (r"(&#[0-9]+;)", None),
    (r"(&(?:amp|lt|gt);)", REWRITTEN.get),
    (r"(<<|>>|@+|#+|_+|\*+|(?:\\\*){1,3}|[?!]+|[=<>.,;:/])", None),
    (rf"([{_SYMBOL}])", None),
    (r"([(){}\[\]\u0080\u00a2-\u00a4\u00bc-\u00be\u20a0\u20ac\u2026\u2153\u2154])", REWRITTEN.get),
)


# Shortcuts to the same tokens: gaps and lone marks, and words that no rule could prolong or cut.
_SKIPPED = re.compile(rf"(?:{_GAP}|[.,;:](?=[ \n]))+")
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=[ \n]|[,;:] )|[A-Za-z]{2,}(?=\.\n)")
_NOT_PLAIN = frozenset(
    [cut.replace("|", "") for cut in SPLIT_WORDS.split()]
    + [*CLOSING_ABBREVIATIONS.split(), *OPENING_ABBREVIATIONS.split()]
    + CAPITALISED_ABBREVIATIONS.lower().split()
    + ["pty", "ptys", "pte", "ptes", "ppty", "ppte", "mtg", "mfg"]
)


@functools.cache
def _compiled_rules() -> tuple[tuple[re.Pattern, Rewrite | None], ...]:
    return tuple(
        (re.compile(pattern), rewrite)
        for pattern, rewrite in WORD_RULES + NUMBER_RULES + MARK_RULES
    )


def _longest(text: str, position: int) -> tuple[re.Match | None, Rewrite | None]:
    """Match and rewrite of the rule that reaches furthest with its context, the first of equals."""
    best, best_rewrite = None, None
    for pattern, rewrite in _compiled_rules():
        match = pattern.match(text, position)
        if match and (best is None or match.end() > best.end()):
            best, best_rewrite = match, rewrite
    return best, best_rewrite


def _lex(caption: str) -> Iterator[str]:
    """Tokens, with their case and most punctuation. Characters that begin no token are skipped."""
    text = caption + "\n\n"  # line breaks end a caption: the context that some rules look for
    position = 0
    while position < len(text):
        if skipped := _SKIPPED.match(text, position):
            position = skipped.end()
        elif (plain := _PLAIN_WORD.match(text, position)) and plain[0].lower() not in _NOT_PLAIN:
            yield plain[0]
            position = plain.end()
        else:
            match, rewrite = _longest(text, position)
            if match:
                yield rewrite(match[1]) if rewrite else match[1]
            position = match.end(1) if match else position + 1


def ptb_tokenize(caption: str) -> str:
    """Lower-cased tokens of a caption, joined by single spaces; "" for nothing but punctuation.

    ptb_tokenize("A man's dog (red) isn't happy.") == "a man 's dog -lrb- red -rrb- is n't happy"

    Raises TypeError if `caption` is not a string.
    """
    if not isinstance(caption, str):
        raise TypeError(f"a caption must be a str, not {type(caption).__name__}: {caption!r}")
    caption = _LINE_BREAK.sub(" ", caption)
    return " ".join(
        token for token in map(str.lower, _lex(caption)) if token and token not in PUNCTUATION
    )
