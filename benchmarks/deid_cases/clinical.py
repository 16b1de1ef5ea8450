"""Clinical values that look like identifiers and are none."""

from __future__ import annotations

import random
from collections.abc import Callable

DRUGS = (
    "metformin", "lisinopril", "atorvastatin", "amlodipine", "apixaban", "Lasix", "Keppra", "sertraline", "Xarelto",
    "prednisolone", "Augmentin", "omeprazole", "tamoxifen", "levothyroxine", "Coumadin", "Zyprexa", "bisoprolol",
    "Humira", "methotrexate", "gabapentin", "Ativan", "ramipril", "co-amoxiclav", "Tylenol", "vancomycin", "digoxin",
)  # fmt: skip
FREQUENCIES = ("daily", "BD", "b.i.d.", "TDS", "q8h", "qhs", "PRN", "once a day", "PO q6h", "nocte", "every 12 hours")
DISEASES = (
    "Parkinson's disease", "Crohn's disease", "Hodgkin lymphoma", "Bell's palsy", "Lyme disease", "Wilson's disease",
    "Graves' disease", "Down syndrome", "Hashimoto thyroiditis", "Cushing's syndrome", "Addison's disease",
    "Charcot-Marie-Tooth disease", "a Baker cyst", "Marfan syndrome", "Raynaud's phenomenon", "Ménière's disease",
    "Barrett's oesophagus", "Guillain-Barré syndrome", "Dupuytren's contracture", "Huntington's disease",
    "Sjögren's syndrome", "Paget's disease", "Wolff-Parkinson-White", "Alzheimer's disease", "Kawasaki disease",
    "Ehlers-Danlos", "Takotsubo cardiomyopathy", "Conn's syndrome", "Stevens-Johnson syndrome", "Tourette's",
    "Osgood-Schlatter", "Rocky Mountain spotted fever", "West Nile virus", "Coxsackie infection",
)  # fmt: skip
SIGNS = (
    "Babinski downgoing bilaterally", "Murphy's sign negative", "Romberg negative", "Lachman negative",
    "no Kernig or Brudzinski", "Homans negative", "McBurney's point non-tender", "Hoffmann's absent",
    "Phalen and Tinel positive", "Trendelenburg positive on the left", "Rovsing's sign positive", "no Janeway lesions",
    "Spurling equivocal", "Virchow's node not palpable", "Dix-Hallpike positive to the right", "no Osler nodes",
)  # fmt: skip
SCORES = (
    "Glasgow coma scale 15", "Apgar 8 and 9", "Ann Arbor stage IIA", "Child-Pugh B7", "Wells score 4.5", "CURB-65 2",
    "NYHA class III", "Killip II", "Gleason 3+4=7", "Norton 14", "Braden 17", "Ranson 2", "Glasgow-Blatchford 6",
    "Boston criteria for CAA met", "Duke criteria not met", "Rome IV criteria met", "Rotterdam criteria met",
    "Hunt and Hess grade 2", "Fisher 3", "Beck inventory 21", "Karnofsky 80", "MMSE 27/30", "Waterlow 12",
    "Los Angeles grade B", "Bristol stool type 6", "Paris classification 0-IIa", "Vienna criteria A", "Breslow 1.2 mm",
)  # fmt: skip
THINGS = (
    "Foley catheter", "Whipple procedure", "Kerr incision", "Hartmann's procedure", "Swan-Ganz catheter",
    "Jackson-Pratt drain", "Billroth II", "Hickman line", "Kirschner wires", "Fogarty catheter", "Ilizarov frame",
    "Thomas splint", "Nissen fundoplication", "Roux-en-Y", "Bankart repair", "Yankauer suction", "Penrose drain",
)  # fmt: skip
GENES = (
    "BRCA1", "BRCA2 c.5946delT", "TP53 R175H", "EGFR L858R", "HER2", "KRAS G12D", "JAK2 V617F", "CFTR F508del",
    "MTHFR C677T", "HLA-B27", "APOE e4", "BCR-ABL1 t(9;22)", "MLH1", "PIK3CA", "MYC", "SHH", "HLA-DQ2/DQ8",
)  # fmt: skip
CODES = (
    "ICD-10 {}", "ICD-10-CM {}", "({})", "dx code {}",
)  # fmt: skip
ICD = ("E11.9", "I10", "J44.1", "M54.5", "C50.911", "F32.1", "N18.3", "S72.001A", "G20", "K50.90", "Z79.4", "R07.9")
SNOMED = ("73211009", "38341003", "195967001", "22298006", "44054006", "84114007", "13645005", "49436004")
LOINC = ("718-7", "2345-7", "4548-4", "2160-0", "6690-2", "777-3", "33762-6", "30313-1")
CPT = ("99213", "99285", "70450", "93000", "45378", "27447", "71046", "36415")
DEPARTMENTS = (
    "Cardiology", "the ED", "Radiology", "Ward 7", "the ICU", "Outpatients", "Orthopaedics", "Labor and Delivery",
    "Pharmacy", "Day Surgery", "Medical Assessment Unit", "the fracture clinic", "Endoscopy", "Neurology", "PACU",
)  # fmt: skip
ORGANISATIONS = ("WHO", "NHS", "FDA", "CDC", "NICE", "the American Heart Association", "EMA", "NIH", "KDIGO")
LABS = (
    "Na {}", "K {}", "Cr {}", "Hb {}", "WBC {}", "plt {}", "CRP {}", "INR {}", "lactate {}", "TSH {}", "HbA1c {}%",
    "ALT {}",
)  # fmt: skip
LAB_VALUES = (
    ("131", "138", "142"), ("3.4", "4.1", "5.2"), ("0.8", "1.3", "2.1"), ("88", "11.2", "134"), ("4.2", "9.8", "14.6"),
    ("98", "210", "402"), ("<5", "42", "188"), ("1.0", "2.4", "3.1"), ("0.9", "2.2", "4.0"), ("0.02", "2.1", "8.8"),
    ("5.6", "7.4", "10.1"), ("18", "44", "301"),
)  # fmt: skip
NUMBER_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty")
ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATIOS = (
    "murmur grade 2/6", "power 4+/5", "adrenaline 1:1000", "ANA 1:40", "Prolene 2-0", "3-0 Vicryl", "16 Fr", "22G",
)  # fmt: skip
# A verb, a noun or a muscle, at the start of a sentence too: "May", "Will", "March" as ordinary words.
WORDS = (
    "May need a further dose.", "Will review in the morning.", "May mobilise as able.", "Will chase bloods.",
    "March fracture excluded.", "May eat and drink.", "Will d/w team.", "Mark the site before theatre.",
    "Will need OT input.", "May weight bear as tolerated.", "Rose from chair unaided.", "Grant leave if stable.",
    "Will likely go home soon.", "May shower.", "Hope to wean oxygen.", "Bill for extended visit.",
)  # fmt: skip


def _age(rng: random.Random) -> str:
    return str(rng.choices((rng.randint(18, 89), rng.randint(60, 88), 89), (60, 35, 5))[0])


def _age_word(rng: random.Random) -> str:
    tens = rng.choice(NUMBER_WORDS)
    return tens if rng.random() < 0.2 else f"{tens}-{rng.choice(ONES)}"


def _blood_pressure(rng: random.Random) -> str:
    upper = rng.choice((120, rng.randint(92, 188)))
    return f"{upper}/{80 if upper == 120 else round(upper * rng.uniform(0.5, 0.68))}"


def _lab(rng: random.Random) -> str:
    number = rng.randrange(len(LABS))
    return LABS[number].format(rng.choice(LAB_VALUES[number]))


def _labs(rng: random.Random) -> str:
    return ", ".join(LABS[number].format(rng.choice(LAB_VALUES[number])) for number in sorted(rng.sample(range(12), 4)))


def _dose(rng: random.Random) -> str:
    amount, unit = rng.choice(((5, "mg"), (500, "mg"), (40, "mg"), (1.25, "mg"), (100, "mcg"), (10, "units"), (2, "g")))
    return f"{amount}{rng.choice((' ', ''))}{unit}"


def _rx(rng: random.Random) -> str:
    return f"{rng.choice(DRUGS)} {_dose(rng)} {rng.choice(FREQUENCIES)}"


def _lab_run(rng: random.Random) -> str:
    # Shaped like a telephone number, as terse notes write a chemistry panel.
    return rng.choice((
        f"{rng.randint(130, 145)} {rng.randint(96, 109)} {rng.randint(5, 30)} {rng.randint(60, 180)}",
        f"{rng.randint(130, 145)}-{rng.randint(96, 109)}-{rng.randint(10, 30)}",
        f"{rng.randint(130, 145)}/{rng.uniform(3.2, 5.4):.1f}/{rng.randint(96, 109)}/{rng.randint(18, 30)}",
        f"7.{rng.randint(20, 48)}/{rng.randint(30, 60)}/{rng.randint(60, 110)}/{rng.randint(18, 30)}",
    ))  # fmt: skip


def _vertebra(rng: random.Random) -> str:
    low = rng.randint(3, 6)
    return rng.choice((f"C{low}-{low + 1}", "L3/4", "L4/5", "L5/S1", f"T{low + 4}", "L4-5", "C5/6"))


def _time(rng: random.Random) -> str:
    hour, minute = rng.randrange(24), rng.randrange(60)
    return rng.choice((f"{hour:02}:{minute:02}", f"{hour:02}{minute:02}h", f"{hour % 12 or 12}:{minute:02} am",
                       f"{hour % 12 or 12}{rng.choice(('am', 'pm'))}", f"{hour:02}.{minute:02}"))  # fmt: skip


def _duration(rng: random.Random) -> str:
    number = rng.randint(2, 18)
    unit = rng.choice((" months", " weeks", "/12", "/52", " days", " yrs"))
    return f"{number}{unit}"


def _one_of(*words: str) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(words)


def _from(low: int, high: int, shape: str = "{}") -> Callable[[random.Random], str]:
    return lambda rng: shape.format(rng.randint(low, high))


CLINICAL: dict[str, Callable[[random.Random], str]] = {
    "age": _age,
    "agew": _age_word,
    "kidage": _from(2, 17),
    "drug": _one_of(*DRUGS),
    "rx": _rx,
    "dose": _dose,
    "disease": _one_of(*DISEASES),
    "sign": _one_of(*SIGNS),
    "score": _one_of(*SCORES),
    "thing": _one_of(*THINGS),
    "gene": _one_of(*GENES),
    "icd": lambda rng: rng.choice(CODES).format(rng.choice(ICD)),
    "icdcode": _one_of(*ICD),
    "snomed": _one_of(*SNOMED),
    "loinc": _one_of(*LOINC),
    "cpt": _one_of(*CPT),
    "dept": _one_of(*DEPARTMENTS),
    "org": _one_of(*ORGANISATIONS),
    "lab": _lab,
    "labs": _labs,
    "labrun": _lab_run,
    "bp": _blood_pressure,
    "hr": _from(48, 132),
    "rr": _from(10, 30),
    "temp": lambda rng: f"{rng.uniform(36.0, 39.4):.1f}{rng.choice(('', '°C', ' C'))}",
    "sats": _from(86, 100, "{}%"),
    "ten": lambda rng: f"{rng.randint(0, 10)}/10",
    "vert": _vertebra,
    "time": _time,
    "dur": _duration,
    "year": _from(1975, 2024),
    "mm": lambda rng: f"{rng.randint(3, 48)} x {rng.randint(3, 40)} mm",
    "num": _from(2, 9),
    "big": _from(20, 950),
    "nct": _from(1000000, 6999999, "NCT0{}"),
    "ratio": _one_of(*RATIOS),
    "may": _one_of(*WORDS),
}  # fmt: skip
