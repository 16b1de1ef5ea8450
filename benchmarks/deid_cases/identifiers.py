"""Numbers and codes that point to one person, in the formats of many offices."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from deid_cases import check_digits

CAPITALS = "ABCDEFGHJKLMNPRSTUVWXYZ"  # VINs and most issuers leave out I, O and Q
UNITS = ("4W", "7E", "ICU", "CCU", "B2", "MAU", "NICU", "5N")


def shaped(shape: str, rng: random.Random) -> str:
    """Fill a shape.

    ``#`` is a digit, ``%`` one above 1, ``@`` a capital, ``&`` a hex digit, ``^`` a capital that Medicare uses.
    """

    def one(found: re.Match[str]) -> str:
        match found[0]:
            case "#":
                return rng.choice("0123456789")
            case "%":
                return rng.choice("23456789")
            case "@":
                return rng.choice(CAPITALS)
            case "^":
                return rng.choice("ACDEFGHJKMNPQRTUVWXY")
            case _:
                return rng.choice("0123456789abcdef")

    return re.sub("[#%@&^]", one, shape)


def _of(*shapes: str) -> Callable[[random.Random], str]:
    return lambda rng: shaped(rng.choice(shapes), rng)


_LINE = (
    "(%##) %##-####", "%##-%##-####", "%##.%##.####", "+1 %## %## ####", "1-%##-%##-####", "(%##)%##-####",
    "%##%######", "0%%## ######", "+44 7### ######", "020 7### ####", "07### ### ###", "+49 30 #######",
    "06 ## ## ## ##", "+91 98### #####", "%##-%##-####", "(%##) %##-####", "%##-####",
)  # fmt: skip


def _phone(rng: random.Random) -> str:
    line = shaped(rng.choice(_LINE), rng)
    return line + shaped(rng.choice((" ext. %##", " x%###", " ext %##")), rng) if rng.random() < 0.1 else line


def _ip6(rng: random.Random) -> str:
    shapes = ("2001:db8:&&&&:&&&&:&&&&:&&&&:&&&&:&&&&", "fe80::&&&&:&&&&:&&&&:&&&&", "2001:db8::&&&&:&&")
    return shaped(rng.choice(shapes), rng)


def _ip4(rng: random.Random) -> str:
    start = rng.choice(("10", "192.168", "172.16", f"{rng.randint(20, 220)}"))
    return ".".join([start, *(str(rng.randint(1, 254)) for _ in range(3 - start.count(".")))])


def _ssn(rng: random.Random) -> str:
    area, group, serial = rng.choice("12345"), "%#", "%###"  # areas that were issued
    return shaped(
        area + rng.choice((f"##-{group}-{serial}",) * 3 + (f"## {group} {serial}", f"##{group}{serial}")), rng
    )


def _nhs(rng: random.Random) -> str:
    check = None
    while check is None:
        nine = shaped("%########", rng)
        check = check_digits.nhs(nine)
    number = nine + check
    return rng.choice((f"{number[:3]} {number[3:6]} {number[6:]}", f"{number[:3]}-{number[3:6]}-{number[6:]}", number))


def _npi(rng: random.Random) -> str:
    nine = shaped("1########", rng)
    return nine + check_digits.npi(nine)


def _dea(rng: random.Random) -> str:
    six = shaped("######", rng)
    return f"{shaped(rng.choice(('A@', 'B@', 'F@')), rng)}{six}{check_digits.dea(six)}"


def _account(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.17:
        account = shaped("@@@@##############", rng)
        plain = f"GB{check_digits.iban('GB', account)}{account}"
        return " ".join(plain[start : start + 4] for start in range(0, len(plain), 4))
    if draw < 0.34:
        card = shaped("4##############", rng)
        card += check_digits.luhn(card)
        return " ".join(card[start : start + 4] for start in range(0, 16, 4))
    return shaped(rng.choice(("%#########", "%###########", "ACCT-%######", "V00######")), rng)


def _udi(rng: random.Random) -> str:
    item = shaped("0############", rng)
    item += check_digits.gtin(item)
    more = rng.choice(("(17)2#0%15(10)@###@(21)########", "(21)########", "(11)2#0%0%(21)@#######"))
    return f"(01){item}{shaped(more, rng)}" if rng.random() < 0.75 else shaped("+@###@####@/$$#######@", rng)


def _vin(rng: random.Random) -> str:
    return check_digits.vin(shaped(rng.choice(("1HG@%#####@######", "WVW@@@###@@######", "5YJ@%@@##@@######")), rng))


_photo = _of(
    "IMG_####.jpg", "DSC0####.JPG", "PXL_202%0%1#_1%3#45###.jpg", "wound_left_heel_%.png", "face-front-####.jpeg",
    "IMG-202%0%1#-WA00##.jpg", "photo_%###.HEIC", "derm_####_a.tif", "P10#####.JPG",
)  # fmt: skip


# name in a template -> the type of the span, and what fills it
IDENTIFIERS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "phone": ("PHONE", _phone),
    "pager": ("PHONE", _of("####", "%####", "%##-####")),
    "fax": ("FAX", _of(*_LINE[:-1])),
    "ssn": ("SSN", _ssn),
    "ssn4": ("SSN", _of("%###", "xxx-xx-####", "***-**-####")),
    "mrn": ("MRN", _of(
        "%######", "%#######", "MR-%######", "00-##-##-##", "@######", "H000#####", "%##-##-##", "%##### @",
    )),
    "nhs": ("MRN", _nhs),
    "plan": ("HEALTH_PLAN", _of(
        "@@@%########", "1^^%-^^#-^^##", "W########", "GRP-0####-####", "%########A", "@##-%######-01",
    )),
    "account": ("ACCOUNT", _account),
    "license": ("LICENSE", _of(
        "@###-####-####", "@#######", "@@######", "MD-#####", "RN %#####", "@@@@@ ###### @99@@", "%#######",
    )),
    "dea": ("LICENSE", _dea),
    "npi": ("LICENSE", _npi),
    "gmc": ("LICENSE", _of("%######")),
    "plate": ("VEHICLE", _of("%@@@###", "@@@-####", "@@## @@@", "@@@ ###", "B-@@ ####", "@## @@@")),
    "vin": ("VEHICLE", _vin),
    "device": ("DEVICE", _of(
        "%@####-##", "PJN######H", "SN-%######", "@@@######", "%#########", "@#-####-@@#", "BLC######S",
    )),
    "udi": ("DEVICE", _udi),
    "ip": ("IP", _ip4),
    "ip6": ("IP", _ip6),
    "bio": ("BIOMETRIC", _of(
        "FP-#####-R%", "VP_202%_####", "IRIS-L-####", "vp:&&&&&&&&&&", "FPT#######", "BIO/####/%", "voice-&&&&&&",
    )),
    "photo": ("PHOTO", _photo),
    "study": ("UNIQUE_CODE", _of(
        "BRAVE-####", "S-0##-%##", "0%-00##", "ONC/%##/##", "PT-@@-##", "HF2-###-##", "@@@-%##",
    )),
    "bed": ("UNIQUE_CODE", lambda rng: shaped(f"{rng.choice(UNITS)}-##{rng.choice(('A', 'B', ''))}", rng)),
    "barcode": ("UNIQUE_CODE", _of("############", "A00#######", "*@######*", "SP%#########", "##############")),
    "accession": ("UNIQUE_CODE", _of("S2#-#####", "2#CT00####", "2#-MR-#####", "H2#.####.@", "RAD%#######")),
    "token": ("UNIQUE_CODE", _of("&&&&&&&&-&&&&-4&&&-a&&&-&&&&&&&&&&&&", "&&&&&&&&&&&&", "REF-@@%###", "C-####-@@")),
}  # fmt: skip
