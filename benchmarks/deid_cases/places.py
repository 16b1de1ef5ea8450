"""Streets, cities, counties, postal codes, named facilities; and states and countries, which identify nobody."""

from __future__ import annotations

import random
import string

from faker import Faker

from deid_cases.people import fold

# New York and Washington are left out of both lists: each is a city and a state.
STATES = {
    "Texas": "TX", "Ohio": "OH", "Oregon": "OR", "Maine": "ME", "Indiana": "IN", "California": "CA", "Virginia": "VA",
    "Georgia": "GA", "Florida": "FL", "Illinois": "IL", "Massachusetts": "MA", "Michigan": "MI", "Minnesota": "MN",
    "North Carolina": "NC", "West Virginia": "WV", "New Mexico": "NM", "Colorado": "CO", "Louisiana": "LA",
}  # fmt: skip
COUNTRIES = (
    "India", "Poland", "Mexico", "Turkey", "Vietnam", "Ireland", "Brazil", "Nigeria", "Jordan", "Chad", "Germany",
    "the Philippines", "Spain", "Ghana", "Thailand", "Kenya", "Peru", "Portugal",
)  # fmt: skip
CITIES = (
    "Boston", "Cleveland", "Springfield", "Des Moines", "St. Louis", "Baton Rouge", "San Antonio", "El Paso", "Phoenix",
    "Mobile", "Buffalo", "Flint", "Normal", "Truth or Consequences", "Ann Arbor", "Salem", "Reno", "Duluth", "Tulsa",
    "Walla Walla", "Lancaster", "Charlotte", "Madison", "Independence",
)  # fmt: skip
CITIES_ABROAD = (
    "Leeds", "Reading", "Bath", "Stoke-on-Trent", "Milton Keynes", "Cork", "Chennai", "Hyderabad", "Kraków", "Izmir",
    "Hanoi", "Lyon", "Nice", "Guadalajara", "Köln", "Manila", "Lagos", "Newcastle upon Tyne", "Wells", "Sandwich",
)  # fmt: skip
COUNTIES = (
    "Cook County", "Kent County", "Suffolk County", "Orange County", "Cuyahoga County", "King County", "Wayne County",
    "Prince George's County", "Marion Co.", "Harris County", "Lancashire", "Essex", "Co. Galway", "Norfolk",
)  # fmt: skip
SUFFIXES = ("St", "St.", "Street", "Ave", "Avenue", "Rd", "Road", "Blvd", "Ln", "Lane", "Dr", "Drive", "Ct", "Way")
TREES = ("Elm", "Oak", "Maple", "Washington", "Lake", "Hill", "Park", "2nd", "14th", "Mill", "Church", "Sunset", "King")
UK_ROADS = ("High Street", "Station Road", "Victoria Road", "The Crescent", "Mill Lane", "Church Close", "Abbey Walk")
FACILITY = (
    "{} General Hospital", "{} Memorial Hospital", "St. {}'s Hospital", "{} Regional Medical Center",
    "{} Community Clinic", "{} Royal Infirmary", "{} Nursing Home", "{} Health Center",
)  # fmt: skip


class Places:
    """Draws places from a Faker instance of its own."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.us, self.uk = Faker("en_US"), Faker("en_GB")
        self.us.seed_instance(rng.getrandbits(32))
        self.uk.seed_instance(rng.getrandbits(32))

    def street(self) -> str:
        rng = self.rng
        draw = rng.random()
        if draw < 0.08:
            return rng.choice(("P.O. Box {}", "PO Box {}")).format(rng.randint(12, 9900))
        if draw < 0.5:
            name = rng.choice(TREES) if rng.random() < 0.6 else str(self.us.last_name())
            side = rng.choice(("", "", "", "N ", "S. ", "West "))
            flat = rng.choice(("", "", "", f", Apt {rng.randint(1, 40)}", f" #{rng.randint(2, 900)}", ", Unit B"))
            return f"{rng.randint(1, 19999)} {side}{name} {rng.choice(SUFFIXES)}{flat}"
        return str(self.us.street_address()).replace("\n", ", ")

    def street_uk(self) -> str:
        if self.rng.random() < 0.5:
            flat = self.rng.choice(("", "", f"Flat {self.rng.randint(1, 30)}, "))
            return f"{flat}{self.rng.randint(1, 240)} {self.rng.choice(UK_ROADS)}"
        return str(self.uk.street_address()).replace("\n", ", ")

    def city(self) -> str:
        return self.rng.choice(CITIES) if self.rng.random() < 0.45 else str(self.us.city())

    def city_uk(self) -> str:
        return self.rng.choice(CITIES_ABROAD[:6]) if self.rng.random() < 0.3 else str(self.uk.city())

    def city_any(self) -> str:
        return self.rng.choice(CITIES_ABROAD) if self.rng.random() < 0.4 else self.city()

    def zip(self) -> str:
        code = f"{self.rng.randint(1001, 99950):05}"
        return f"{code}-{self.rng.randint(1, 9999):04}" if self.rng.random() < 0.25 else code

    def zip_uk(self) -> str:
        code = str(self.uk.postcode())
        return code.replace(" ", "") if self.rng.random() < 0.15 else code

    def facility(self) -> str:
        name = self.rng.choice(CITIES[:12]) if self.rng.random() < 0.4 else str(self.us.last_name())
        return self.rng.choice(FACILITY).format(name)

    def state(self) -> str:
        return self.rng.choice(list(STATES))

    def state_abbr(self) -> str:
        return self.rng.choice(list(STATES.values()))

    def url(self, person_last: str) -> str:
        rng = self.rng
        slug = "".join(letter for letter in fold(person_last).lower() if letter in string.ascii_lowercase) or "family"
        domain = str(self.us.domain_name())
        return rng.choice((
            f"https://portal.{domain}/patients/{rng.randint(1000, 99999)}", f"www.{domain}/~{slug}",
            f"http://{domain}", f"https://www.{domain}/{slug}/blog",
            f"{slug}family.{rng.choice(('org', 'net', 'co.uk'))}",
            f"https://gofund.example/{slug}-{rng.randint(10, 99)}", f"facebook.com/{slug}.{rng.randint(10, 9999)}",
        ))  # fmt: skip

    def email(self, person_first: str, person_last: str) -> str:
        rng = self.rng
        first, last = (
            "".join(letter for letter in fold(name).lower() if letter in string.ascii_lowercase) or "me"
            for name in (person_first, person_last)
        )
        numbered = f"{first[0]}{last}{rng.randint(1, 99)}"
        local = rng.choice((f"{first}.{last}", numbered, f"{last}_{first}", f"{first}+clinic"))
        host = str(self.us.free_email_domain()) if rng.random() < 0.5 else str(self.us.domain_name())
        return f"{local}@{host}"
