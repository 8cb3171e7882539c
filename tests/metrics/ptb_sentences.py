"""Sentences of our own that ask a tokenizer many questions: captions with something awkward in
them. `sentences()` is the same list every time; make_goldens.py has the official tokenizer answer.
"""

import random

CAPTIONS = """
    a man rides {} on the beach | {} is parked in front of a house | two dogs run after {} in snow
    The sign says {} in red letters | A woman holds {} and smiles | there is {} next to the oven
    a plate with {} on it | {}, a cat and a bird | someone wrote {} on the wall. It is late
    Kids play with {}! | Is that {}? | {} | In this picture: {} | Near {} the road ends.
    a bus ({}) at a stop | He said "{}" and left | an old clock by {}; a new one by {}
    the shop sells {} and {} | {} and {} stand together | From {} to {} in one day...
    A train called '{}' leaves | one - {} - two | I saw {} | Look at {}: it is {}
    This is {}. The dog sleeps | we like {}, don't we? | a photo of {} taken from {}
""".replace("\n", "|").split("|")

# The words of each kind are separated by two spaces, so that they may hold one.
AWKWARD = {
    "contraction": """can't  won't  isn't it  they'll  she'd  I'm  we've  you're  it's
        that's  y'all  ain't  o'clock  doesn't  would've  shouldn't've  who's  let's  IT'S
        DON'T  Can’t  she’s  they’re  dont  cant  hadn`t  ma'am  'twas  'tis  'em  'cause
        d'you  he'd've""",
    "possessive": """a dog's bowl  the girls' team  James's bike  the boss' desk
        cats' tails  St. Mary's church  1990's cars  the '80s  the 80s  Ross's
        a child’s toy  the twins’ room  rock 'n' roll  bread 'n butter  the bus's door
        Joe's and Ann's  O'Neil  D'Angelo  l'eau""",
    "informal": """gonna win  wanna go  gotta run  gimme five  lemme see  cannot wait  dunno
        kinda big  whatcha doing  more'n ten  outta here  lotsa fun  c'mon  goin' home
        ol' truck  GONNA  Cannot  yep  hm  li'l dog  ne'er  ma  an' so  nothin' new  y'know""",
    "bracket": """(two) dogs  [sic]  {curly}  ((double))  (a  b)  [1]  {2, 3}
        (left)/(right)  ()  []  (s)  dog(s)  <b>bold</b>  <br/>  <br />  <a href="x">  <p>
        </p>  < 5  > 6  <3  <- left  ->  a<b  <unk>  <end of line>  <!-- note -->  -LRB-
        -rrb-  -lsb-  (:  f(x)  x[0]  <1  <a""",
    "quote": """"hello"  'hello'  ``hello''  `hello`  “hello”  ‘hello’  «salut»  ‹salut›
        „hallo“  "don't"  'don't'  '  "  ''  ``  "a" "b"  say "cheese"  the "king's" head
        "5"  5"  6'2"  5'  "stop."  "stop".  'stop.'  "(a)"  ("a")  'a' 'b'  it''s  "a  b"
        ''''  ""  "","  ’s  ”x“""",
    "number": """5  12  1,000  1,234,567  3.14  .5  5.  0.75%  100%  7 %  -3  +4  - 5
        1.000,50  1,00  3,5  1.2.3  007  1e5  2nd  3rd  21st  101st  4th-place  5-6  10-12
        1:2  16:9  5x7  4x4  2X4  five-2  #1  #10  no. 7  No. 7  nos. 3  42!  9?  8;  7:
        10's  5s  6th.  ½  3½  ¼ cup  ²  10³""",
    "fraction": """1/2  3/4 cup  5 1/2  2 3/4 inches  1/2-inch  3-1/2  10/11  1/2/3  7/8ths
        1 / 2  12 1/4 feet  a 1/2  1/a  5 10/12 x  11 1/2-mile  1,000/2  4 5  1/2.  5 1/2.
        20-1/2""",
    "money": """$5  $5.00  $1,000  5$  $ 5  US$20  C$3  A$7  £10  €20  20€  ¥500  ₤3
        $5-a-day  $3m  5 cents  5¢  $5/hr  $.99  -$5  $5.  $$  $x  ¤5  ₹100  ₽  HK$9  £5.50p
        $1.5bn  EUR5  Rs.50""",
    "unit": """5ft  5 ft.  6in  6 in.  10kg  10 kg.  3cm x 4cm  25mph  25 m.p.h.  60°  72°F
        5'10"  12oz.  12-oz. can  2 lbs.  2lb  100m  100-m  1km/h  3.5-inch  4-door
        8-year-old  2-by-4  30-sec.  1080p  4K  16GB  5G  120v  60Hz  1.5L  3-D  3D  50/50
        24/7  9-to-5  7UP  V8  H2O""",
    "date": """12/25/2010  12-25-2010  2010-12-25  25.12.2010  Jan. 5  Feb. 28th
        Sept. 11, 2001  Dec 25  July 4th  Mon. and Tues.  Fri.  5/6/07  1/2/2003  1999-2000
        the 1990s  mid-1990s  '99  '99-'00  2004/05  3-4-5  Nov. The  Oct.  11-Sep-01  1/1
        2010-1-2  1-1-1  Aug. 5.""",
    "time": """10:30  10:30pm  10:30 p.m.  10 a.m.  5 P.M.  5PM  noon  7:05:09
        12:00 AM. Then  4pm  24:00h  a.m.  p.m. The  9:00-17:00  10:30am-4pm  half 5
        5 o'clock  ten o’clock  10.30""",
    "phone": """555-1234  (555) 123-4567  555-123-4567  1-800-555-1234  +1 555 123 4567
        555 1234  555.123.4567  (02) 1234 5678  1-800-FLOWERS  +44 20 7946 0958  911
        5551234567  555 123-4567  (555)123-4567  123-45-6789  +49-30-1234  0800 12345
        01 23 45 67 89  (12) 34  12 345 6789""",
    "abbreviation": """Mr. Fox  Mrs. Fox  Ms. Fox  Dr. Who  Prof. X  St. Louis  Mt. Fuji
        Ave. The  5th Ave.  Main St.  Main St. The  Inc.  Foo Inc. is  Bar Corp. The  Ltd.
        Co.  Bros.  Jr.  Ed Jr. The  Sr.  vs.  vs. the  etc.  etc. The  e.g. dogs  i.e. cats
        cf. this  approx. 5  fig. 3  Fig. A  pp. 3-5  p. 4  vol. 2  ed. 5  Gen. Lee  Sgt. P
        Sen. B  Gov. C  Rev. D  a.k.a.  a.k.a  Ph.D.  Ph.D. The  M.D.  B.A.  w.r.t. it
        alt. route  dept. of  est. 1900  max. 10  Calif.  Mass. and  N.Y.  Wash. The  Ill.
        Va. is  B.C.  A.D. 5  Messrs. X  Capt. J  Col. K""",
    "initials": """J. Smith  J.R. Smith  J. R. R. Tolkien  A. The  plan B. The  U.S.
        U.S. The  U.K.  U.S.A.  USA  U.S.-made  the U.N. vote  L.A.  D.C. area  C. C. C.
        F.B.I. men  x.y  x.y.z  X.  I. I  Mr.T  a.b.  A.B  P.S. hi  R.I.P.  U.S.'s
        N.B.A. The  G.I. Joe  E.T. is  T.V.""",
    "hyphen": """T-shirt  x-ray  mother-in-law  well-known  co-op  re-use  pre-war  ex-wife
        -ish  a-  -a  anti-  pro-  half -open  non- fat  A-1  B-52  F-16s  747-400  U2
        Wi-Fi  Jean-Luc  e-mail  s-l-o-w  to-do.  twenty-one  one-two-three  Coca-Cola's
        o'clock-ish  l-  --x  x--  half-dog's  semi-  all-you-can-eat  I-95  wi-
        pick-me-up!  hi-5  5-hi  4-H  x-5-y  mid-'90s""",
    "dash": """-  --  ---  ----  –  —  a - b  a -- b  a--b  a—b  a–b  a — b  5–6  5—6
        1990–95  ‐  ‑  ―  a‑b  a‐b  -----  - - -  =  ==  ===  ~  ~~  _  __  a_b  _x_  •  ·
        *  **  ***  a*b  ~5  *x*""",
    "dots": """...  ....  ..  .....  …  ……  wait...  wait ...  ...wait  a...b  a..b  a.b.
        . . .  . . . .  . .  what?!  what!?  no!!!  yes??  ?!  !  ?  a!b  a?b  a,b  a;b  a:b
        a, b  a ,b  ,  ,,  ;;  ::  end .  end..  .start  :x  ;x  !x  ?x  a.  b!.  c?.  d.!
        e.?  f.,  g,.  1.  1..  1...  1...2""",
    "slash": """and/or  he/she  w/  w/o  b/w  w/ cheese  a/b/c  1/a  a/1  a\\b  \\  /  //
        a//b  n/a  black/white  2/3-size  km/h  he/she/it  /x  x/  a / b  input/output.  c/o
        24/7/365  A/C""",
    "address": """http://example.com  https://www.example.org/a/b?c=d&e=f#g  www.example.com
        example.com  example.co.uk  sub.example.net/x  me@example.com  a.b-c@d.example.org
        ftp://example.com  http://example.com.  (www.example.com)  www.example.com,
        mailto:a@b.co  example.com's  HTTP://EXAMPLE.COM  https://x.y/z!  www.x.  a@b  @  a@
        @b  foo.bar  x.com.  http://  http://x  www.foo-bar.info/q  foo.edu?  photo.jpg
        notes.txt.  readme.md  a.mp3""",
    "tag": """#dog  #dogs2  #a_b  #1a  # dog  #  ##x  @dog  @a_b  @a1  @ home  #Café  a#b
        a@b#c  #a-b  #dog's  @dog's  #dog.  @dog,  #a#b  #@x  @#x  rt @me:  C#  F#  A+  C++
        B-  A*  g++  ##""",
    "emoticon": """:)  :(  ;)  :-)  :-(  ;-)  :D  :P  :p  :o  :O  =)  =(  =D  :/  :\\  :|
        :'(  :*  8)  B)  xD  XD  <3  </3  ^_^  -_-  o_o  O.o  >:(  :-D  :-/  :]  :[  =]  :}
        (:  (-:  ):  :))  ;-P  :3  =P  d:  :-|  :-*  T_T  *_*  >.<  \\o/  :^)  :=)  ;D  ;-D
        :-P  =/  %)  :X  hi:)""",
    "emoji": """😀  a 😀 face  dog😀  😀dog  🐶🐶  👍🏽  ❤️  ❤  ☺  ☺️  ★  ☆ 5  ✓  ✔ done  ✨
        👨‍👩‍👧  🇺🇸  ⚽  ☕ cup  ♥  ♫  ☀️  1️⃣  ⭐  ✈  ☎  ♻  ⚡  🚲 bike  a🚲b  ➡  ⬆  ▶  ©️
        ™️  ‼  ⁉  〰  ㊙  🀄  ✂️  ☃  🅰""",
    "accented": """café  naïve  señor  jalapeños  Zürich  crème brûlée  piñata  Ångström
        smørrebrød  œuvre  ﬁsh  ﬂag  straße  ÉCLAIR  İstanbul  coöp  façade's  São Paulo
        déjà-vu  l'été  d’été  cafe\u0301  n\u0303andu  Dvořák  Łódź  þing  ßa  ǆ  ª  º  1ª
        nº 5  ñ  Ñ's  maître d'  à  À la""",
    "script": """日本  日本語 の  東京都2020  한국어  привет мир  Привет.  Ελλάδα  عربي
        עברית  हिन्दी  ไทย  ქართული  「日本」  日本。  日本、  ！  ？  ，  （x）  ａｂｃ
        １２３  ５％  ￥500  ＄5  a日b  日5  5日  ٣  ३४  ၁၂  አማርኛ  мир-мир  мир's  日本's
        가나다라  ῥώμη  ツ  ー  ゛  々  〆  Ж.  Ж. Ж.  ы  ё-моё""",
    "symbol": """&  AT&T  R&B  a & b  a&b  Q&A  M&Ms  &amp;  &lt;  &gt;  &quot;  &nbsp;
        &eacute;  caf&eacute;  &#39;  it&#39;s  it&apos;s  &x;  &mdash;  ©  ®  ™  Lego®
        Lego™  °  5°  ±5  ×  5×7  ÷  µm  §  §5  ¶  †  ‡  ‰  5‰  ∞  ≈  ≤ 5  ≠  √2  π  Ω  ∑  →
        ←  ⇒  ↑  ■  □  ●  ○  ◆  △  ¬  ¦  ¨  ¯  ´  ¸  ·""",
    "math": """2+2  2 + 2 = 4  a=b  a = b  x^2  x_1  5*3  5>3  5<3  3>=2  a|b  |  ||  ~
        5%-10%  %  50%off  +  ++  +=  5+  +5  5-  1+1=2  y=x+1  10^6  {x}  x'  x''  f'(x)
        $x$  \\x  a^b  ^  <=  >=  !=  ==""",
    "code": """B-52  A4  A-4  iPhone6  iPhone 6s  PS4  R2-D2  C-3PO  X2  4x  x4  7-Eleven
        7-eleven  3M  F1  B&B  K-9  I.D.  No.1  #5-A  A1B2  abc123  123abc  1a2b  a1-b2
        Q1'09  Mk.2  v1.2  v1.2.3  v.2  MS-13  MP3s  3am-ish  T.J.  s/n  p/n 4  AA-12.
        X.509  .NET  .com  C:\\x  /usr  a/b.txt""",
    "shout": """STOP  NO PARKING!  U.S.A!  SALE 50%  "OPEN 24 HRS."  BUS STOP.  DON'T
        CAN'T STOP  MR. BIG  ST. PAUL  MAIN ST.  NO. 5  A.M.  ETC.  INC.  DR. NO  LTD. CO.
        JAN. 5  AVE.  IT'S""",
    "space": """a  b  a\tb  a\u00a0b  5\u00a05  a\u2003b  a\u200bb  a\u00adb  soft\u00adly
        x\u3000y  a\ufeffb  end\u00a0  \u00a0  a\u2009%  5\u202fkm  a\u0007b  a\u0085b
        a\u001fb""",
}


def words_of(kind: str) -> list[str]:
    """The awkward words of one kind."""
    lines = (line.strip(" ") for line in AWKWARD[kind].split("\n"))
    return [word for line in lines for word in line.split("  ") if word]


def sentences(count: int = 2400, seed: int = 0) -> list[str]:
    """Different sentences: every awkward word in one of its own, then random ones up to `count`."""
    rng = random.Random(seed)
    templates = [line.strip(" ") for line in CAPTIONS if line.strip(" ")]
    kinds = {kind: words_of(kind) for kind in AWKWARD}
    pool = [word for words in kinds.values() for word in words]

    def sentence(word: str) -> str:
        template = templates[int(rng.random() * len(templates))]
        others = [pool[int(rng.random() * len(pool))] for _ in range(template.count("{}"))]
        return template.format(*[word, *others][: template.count("{}")])

    found = dict.fromkeys(sentence(word) for word in pool)
    while len(found) < count:
        found.setdefault(sentence(pool[int(rng.random() * len(pool))]))
    return list(found)
