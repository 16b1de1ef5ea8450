"""Check digits, so that an engine that verifies them is not judged on numbers nobody would hold."""

from __future__ import annotations

VIN_VALUES = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", map(int, "12345678123457923456789" + "0123456789"), strict=True)
)
VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def luhn(digits: str) -> str:
    """The last digit of a card number."""
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(digits))]
    return str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


def npi(nine: str) -> str:
    """The last digit of a US provider number."""
    return luhn(f"80840{nine}")


def dea(six: str) -> str:
    """The last digit of a US prescriber number."""
    values = [int(digit) for digit in six]
    return str((sum(values[0::2]) + 2 * sum(values[1::2])) % 10)


def nhs(nine: str) -> str | None:
    """The last digit of an NHS number; None: these nine are never issued."""
    check = -sum(int(digit) * (10 - place) for place, digit in enumerate(nine)) % 11
    return None if check == 10 else str(check)


def gtin(thirteen: str) -> str:
    """The last digit of a trade item number, as in a UDI."""
    return str(-sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(thirteen)) % 10)


def iban(country: str, account: str) -> str:
    """The two digits after an IBAN's country."""
    number = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    return f"{98 - int(number) % 97:02}"


def vin(seventeen: str) -> str:
    """The vehicle number with its ninth sign set."""
    rest = sum(VIN_VALUES[sign] * weight for sign, weight in zip(seventeen, VIN_WEIGHTS, strict=True)) % 11
    return f"{seventeen[:8]}{'X' if rest == 10 else rest}{seventeen[9:]}"
