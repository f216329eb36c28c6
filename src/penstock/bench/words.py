"""The words that made-up prompts are written with.

Knows nothing about tokenizers. Invariant: lower-case words of letters only, each once; common enough that most
vocabularies have a token for each with the space before it.
"""

from __future__ import annotations

from typing import Final

_TEXT = """
able about above across after again against age ago air all almost along already also always among and animal
another answer any area arm around art ask away back bad bank base be because bed been before began behind below
best better between big bird black blue board boat body book both bottom box boy bring brother brown build business
but buy by call came can car care carry case cat catch change child children city class clear close cold color come
common company complete cost could country course cover cross cry cut dark day deep did different do dog done door
down draw dream drive dry during each early earth east eat end enough even every example eye face fact fall family
far farm fast father feel feet few field fight figure fill final find fine fire first fish five floor follow food
foot for force form found four free friend from front full game garden gave get girl give glass go gold good great
green ground group grow had half hand happen hard has have he head hear heart heat heavy help her here high hill him
his history hold home horse hot hour house how hundred idea if important in inch interest is island it job just keep
kind king know land language large last late law lay lead learn leave left less let letter level life light like
line list listen little live long look lost lot love low machine made main make man many map mark market matter may
me mean measure men might mile mind minute money month moon more morning most mother mountain move much music must
my name near need never new next night no north note nothing now number object of off office often oil old on once
one only open or order other our out over own page paper part party pass past pay people person picture piece place
plan plant play point poor power present problem public pull put question quick rain ran reach read ready real
reason red rest right river road rock room round rule run said same saw say school science sea second see seem send
set seven several shape she ship short should show side simple since sing six size sleep slow small snow so some
song soon sound south space special spring stand star start state stay step still stone stop story street strong
study such summer sun sure surface system table take talk teach tell ten test than that the their them then there
these they thing think this those though thought thousand three through time to today together told too took top
toward town travel tree true try turn two under unit until up use very voice wait walk wall want war warm was watch
water way we week weight well went were west what wheel when where which while white who whole why wide will wind
winter with without woman wonder wood word work world would write year yes yet you young your
"""
WORDS: Final[tuple[str, ...]] = tuple(_TEXT.split())
