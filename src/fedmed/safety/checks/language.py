"""Which language a question is in, as far as it must be known to say plainly that only English is read.

words -> HERE -> rails.

Not covered: names of the languages; a single foreign word in an English sentence.
"""

from __future__ import annotations

import unicodedata

from fedmed.safety.checks.case import Case
from fedmed.safety.look_alikes import latin
from fedmed.safety.words import Words, listed

_ENGLISH = listed(
    "the a an of to in on at by for with from and or but is are was were be been it its this that i my me you "
    "your he "
    "she they we his her what whats why how when where which who can could do does did should would will may if not "
    "no have has had there so as than about after before into out up down just get got please tell explain im "
    "ive dont "
    "cant between during over under too very more most any some"
)
# Function words of other languages in Latin letters, as normalise leaves them (no accents), without those of English.
_OTHERS = (
    listed(
        # Spanish, Portuguese, Italian, French, Catalan, Romanian
        "que para por con una uno los las el es del se al como cual cuales cuando donde quien esta este estos tengo "
        "tiene "
        "puedo puede mi mis su sus hay muy pero porque hijo hija sirve significa hace dias cuanto cuanta ser y "
        "o os um uma nao com como qual quais quando onde posso pode tem tenho meu minha faz fazer entre sao eu voce "
        "esse essa "
        "il lo la gli che cosa cos cose di da nel della dello sono ho ha puo perche quale quali mio mia serve come "
        "si un anche "
        "le les des du une est et ou qui quoi quel quelle quels quelles dans pour avec sur pas ne je tu il nous "
        "vous mon ma mes "
        "son sa ses ce cette ces sont ai peut peux on au aux sans tes ton etre donner prendre jour quest cest "
        "este si nu cum ce pentru din sunt "
        # German, Dutch, Scandinavian
        "der die das den dem des ein eine einen einer eines ist sind war wie was warum wann wo wer welche welcher "
        "welches "
        "und oder aber nicht kein keine ich du er sie wir ihr mein meine mir mich mit von zu zum zur bei fur auf "
        "aus nach "
        "hat habe haben kann konnen soll muss wird bedeutet hilft gegen uber bis seit alle ohne antworte "
        "het een van niet ik mijn wat hoe waarom wanneer welke zijn heb heeft kan voor met bij ook maar "
        "jeg du er det en et og ikke hva hvordan hvorfor min mitt har kan til av pa som att jag vad hur ar inte det "
        "och med "
        # Polish, Czech, Turkish, Indonesian, Swahili, Vietnamese, Tagalog, Finnish, Hungarian, Hindi in Latin letters
        "jak co jest czy nie sie na z do w po o ktore moje mam boli dlaczego dla od bez jako "
        "proc kdy kde jsem muj moje bolest "
        "nedir ve bir bu icin nasil neden mi mu hangi ne var yok iyi gelir tum onceki goster benim mesajini "
        "apa yang dan di ke dari untuk dengan saya anda tidak adalah bagaimana mengapa "
        "ya na wa kwa ni nini je yote bila maagizo hii kama mimi "
        "la gi cua va toi khong nhu nao bao "
        "ang ng mga sa ko po ano paano bakit "
        "mika mita miten miksi on ei ja se minun ovat "
        "hogy mi az egy nem es van miert hogyan mit "
        "kya hai hain ka ki ke ko mein mujhe mera meri kaise kyun nahi hota hoti aur se raha rahi"
    )
    - _ENGLISH
    - listed(
        "die was war on or so an as per pro in me he o z y w a men do to no i la le un des con come y son sur "
        "bei gi es is are her one all bin gut mit pa ya na sa se ma mi mu po"
    )
)
_ENOUGH = 2


def other_language(case: Case) -> str | None:
    """Letters of another script, or more function words of other languages than of English."""
    letters = foreign = 0
    for word in case.words.plain.split():
        for character in latin(word):
            if character.isalpha():
                letters += 1
                foreign += not _is_latin(character)
    if foreign >= 2 and foreign >= 0.3 * letters:
        return ""
    return "" if _mostly_foreign(case.words) else None


def _mostly_foreign(words: Words) -> bool:
    english = sum(token in _ENGLISH for token in words.tokens)
    other = sum(token in _OTHERS for token in words.tokens)
    return (other >= _ENOUGH and other > english) or (other >= 3 and other >= 1.5 * english)


def _is_latin(character: str) -> bool:
    return character.isascii() or "LATIN" in unicodedata.name(character, "")
