"""The units that `quantity` knows: for each its size in base units and its powers of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """A unit of measurement.

    size: in base units.
    powers: of the base units, sorted.
    zero: what its zero is in base units, for temperatures.
    """

    size: Fraction
    powers: Powers
    zero: Fraction = Fraction(0)

    def __mul__(self, other: Unit) -> Unit:
        powers = dict(self.powers)
        for base, power in other.powers:
            powers[base] = powers.get(base, 0) + power
        return Unit(self.size * other.size, _sorted(powers))

    def __pow__(self, exponent: int) -> Unit:
        return Unit(self.size**exponent, tuple((base, power * exponent) for base, power in self.powers))

    @property
    def name(self) -> str:
        """The base units as they are written: "m/s", "kg m^2/s^2"."""
        above = [_power(base, power) for base, power in self.powers if power > 0]
        below = [_power(base, -power) for base, power in self.powers if power < 0]
        return "/".join([" ".join(above), *below])


def _power(base: str, power: int) -> str:
    return base if power == 1 else f"{base}^{power}"


def _sorted(powers: Mapping[str, int]) -> Powers:
    return tuple(sorted((base, power) for base, power in powers.items() if power))


# Each line: the names of one unit, its size, and the powers of base units (a letter with its power). "+" before a line: its
# symbols and words take the metric prefixes. Words also come with a plural s.
_METRIC = """
m meter metre | 1 | m
g gram gramme | 1/1000 | kg
s second | 1 | s
A ampere amp | 1 | A
mol mole | 1 | mol
l L liter litre | 1/1000 | m3
Hz hertz | 1 | s-1
N newton | 1 | kg m s-2
Pa pascal | 1 | kg m-1 s-2
J joule | 1 | kg m2 s-2
W watt | 1 | kg m2 s-3
V volt | 1 | kg m2 s-3 A-1
Ω ohm | 1 | kg m2 s-3 A-2
coulomb | 1 | A s
farad | 1 | kg-1 m-2 s4 A2
cal calorie | 4.184 | kg m2 s-2
Wh | 3600 | kg m2 s-2
eV electronvolt | 0.0000000000000000001602176634 | kg m2 s-2
B byte | 8 | bit
bit | 1 | bit
bar | 100000 | kg m-1 s-2
"""
_OTHER = """
kilo | 1 | kg
inch inches | 0.0254 | m
ft foot feet | 0.3048 | m
yd yard | 0.9144 | m
mi mile | 1609.344 | m
nmi | 1852 | m
ly lightyear | 9460730472580800 | m
Å angstrom angstroem ångström | 1/10000000000 | m
ha hectare | 10000 | m2
acre | 4046.8564224 | m2
sqft | 0.09290304 | m2
sqm | 1 | m2
cc ccm | 0.000001 | m3
gal gallon | 0.003785411784 | m3
qt quart | 0.000946352946 | m3
pt pint | 0.000473176473 | m3
cup | 0.0002365882365 | m3
tbsp tablespoon | 0.00001478676478125 | m3
tsp teaspoon | 0.00000492892159375 | m3
t tonne | 1000 | kg
ton | 1 | ton
oz ounce | 0.028349523125 | kg
lb lbs pound | 0.45359237 | kg
sec | 1 | s
min minute | 60 | s
h hr hour | 3600 | s
d day | 86400 | s
week wk | 604800 | s
fortnight | 1209600 | s
month mo | 1 | month
year yr | 12 | month
decade | 120 | month
century centuries | 1200 | month
mph | 0.44704 | m s-1
kph kmh kmph | 5/18 | m s-1
mpg | 48000000000/112903 | m-2
furlong | 201.168 | m
stone | 6.35029318 | kg
barrel bbl | 0.158987294928 | m3
knot kn kt | 1852/3600 | m s-1
au AU | 149597870700 | m
parsec | 30856775814913673 | m
Da dalton amu | 0.00000000000000000000000000166053906892 | kg
mC millicoulomb | 1/1000 | A s
μC microcoulomb | 1/1000000 | A s
nC nanocoulomb | 1/1000000000 | A s
mF millifarad | 1/1000 | kg-1 m-2 s4 A2
μF uF microfarad | 1/1000000 | kg-1 m-2 s4 A2
nF nanofarad | 1/1000000000 | kg-1 m-2 s4 A2
pF picofarad | 1/1000000000000 | kg-1 m-2 s4 A2
H henry | 1 | kg m2 s-2 A-2
mH millihenry | 1/1000 | kg m2 s-2 A-2
μH uH microhenry | 1/1000000 | kg m2 s-2 A-2
Wb weber | 1 | kg m2 s-2 A-1
mWb milliweber | 1/1000 | kg m2 s-2 A-1
gauss | 1/10000 | kg s-2 A-1
siemens | 1 | kg-1 m-2 s3 A2
Bq becquerel | 1 | s-1
kBq | 1000 | s-1
MBq | 1000000 | s-1
Gy gray | 1 | m2 s-2
mGy | 1/1000 | m2 s-2
Sv sievert | 1 | m2 s-2
mSv millisievert | 1/1000 | m2 s-2
μSv microsievert | 1/1000000 | m2 s-2
cd candela | 1 | cd
dB decibel | 1 | dB
dyn dyne | 1/100000 | kg m s-2
erg | 1/10000000 | kg m2 s-2
torr Torr | 101325/760 | kg m-1 s-2
atm | 101325 | kg m-1 s-2
psi | 6894.757293168 | kg m-1 s-2
hp horsepower | 745.69987158227022 | kg m2 s-3
BTU | 1055.05585262 | kg m2 s-2
rpm | 1/60 | s-1
Nm | 1 | kg m2 s-2
KiB kibibyte | 8192 | bit
MiB mebibyte | 8388608 | bit
GiB gibibyte | 8589934592 | bit
TiB tebibyte | 8796093022208 | bit
T tesla | 1 | kg s-2 A-1
mT millitesla | 1/1000 | kg s-2 A-1
μT uT microtesla | 1/1000000 | kg s-2 A-1
M molar | 1000 | mol m-3
mM millimolar | 1 | mol m-3
μM uM micromolar | 1/1000 | mol m-3
nM nanomolar | 1/1000000 | mol m-3
% percent pct percentage | 1 | %
‰ permille | 1/10 | %
pp | 1 | pp
bp | 1/100 | pp
° deg degree | 1 | °
rad radian | 1 | rad
$ dollar USD buck | 1 | $
¢ cent | 1/100 | $
€ euro EUR | 1 | €
£ GBP quid | 1 | £
pence | 1/100 | £
¥ yen JPY | 1 | ¥
yuan CNY RMB | 1 | CNY
₹ rupee INR Rs | 1 | ₹
₩ won KRW | 1 | ₩
₽ ruble rouble RUB | 1 | ₽
CHF franc | 1 | CHF
CAD | 1 | CAD
AUD | 1 | AUD
"""
_SYMBOLS = {"p": -12, "n": -9, "μ": -6, "u": -6, "m": -3, "c": -2, "d": -1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12}
_HOUSEHOLD = {"c": "m g l L", "d": "m g l L", "h": "m g l L Pa"}  # what takes these prefixes: a dB is no tenth of a byte
_PREFIXES = {
    "pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "hecto": 2, "kilo": 3, "mega": 6, "giga": 9,
    "tera": 12,
}  # fmt: skip
_PLURALS = ("kms", "cms", "mms", "kgs", "hrs", "mins", "secs", "yrs", "wks", "gals", "ozs", "mls")  # of symbols
_KELVIN = {
    "K": Unit(Fraction(1), (("K", 1),)),
    "°C": Unit(Fraction(1), (("K", 1),), Fraction("273.15")),
    "°F": Unit(Fraction(5, 9), (("K", 1),), Fraction("459.67") * Fraction(5, 9)),
}
_TEMPERATURES = {
    **dict.fromkeys(("K", "kelvin"), "K"),
    **dict.fromkeys(("celsius", "centigrade", "C", "degC"), "°C"),
    **dict.fromkeys(("fahrenheit", "F", "degF"), "°F"),
}


@lru_cache(maxsize=1)
def table() -> Mapping[str, Unit]:
    """All units by their names, those with prefixes too."""
    units: dict[str, Unit] = {name: _KELVIN[kind] for name, kind in _TEMPERATURES.items()}
    for line in _OTHER.strip().splitlines():
        names, unit = _line(line)
        units |= dict.fromkeys(names, unit) | {f"{name}s": unit for name in names if len(name) > 2 and name.isalpha()}
    for line in _METRIC.strip().splitlines():
        names, unit = _line(line)
        for name in names:
            symbol = len(name) < 3 or name in ("mol", "cal", "bar", "bit")
            known = {"": 0} | (_SYMBOLS if symbol else _PREFIXES)
            known = {each: power for each, power in known.items() if name in _HOUSEHOLD.get(each, name).split()}
            prefixed = {
                f"{prefix}{name}": Unit(unit.size * Fraction(10) ** power, unit.powers) for prefix, power in known.items()
            }
            units = prefixed | units  # "min" and "pt" are not prefixed units
            if not symbol or name == "bit":
                units |= {f"{each}s": value for each, value in prefixed.items()}
    return units | {name: units[name.removesuffix("s")] for name in _PLURALS}


def _line(line: str) -> tuple[list[str], Unit]:
    names, size, powers = (part.split() for part in line.split("|"))
    parted = {
        base.rstrip("-0123456789"): int(base.lstrip("abcdefghijklmnopqrstuvwxyzAKCHFDNYRMBU%°$€£¥₹₩₽") or "1") for base in powers
    }
    return names, Unit(Fraction(size[0]), _sorted(parted))


@lru_cache(maxsize=1)
def _by_small_letters() -> Mapping[str, Unit]:
    """The units whose names differ from all others' by more than capitals, by their names in small letters."""
    known: dict[str, set[Unit]] = {}
    for name, unit in table().items():
        known.setdefault(name.lower(), set()).add(unit)
    return {name: next(iter(units)) for name, units in known.items() if len(units) == 1}


def lookup(name: str) -> Unit | None:
    """The unit of a name; capitals count where they decide between units (mL, ML), and only there."""
    units = table()
    found = units.get(name)
    if found is None and len(name) > 1:
        found = units.get(name.replace("K", "k", 1)) or units.get(name.lower()) or _by_small_letters().get(name.lower())
    return found
