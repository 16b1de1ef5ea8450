"""Generated clinical records with exact gold spans, to measure a de-identification engine.

What is marked (45 CFR 164.514(b)(2)):
- NAME: the name alone; titles ("Dr"), credentials ("MD") and a possessive "'s" lie outside.
- LOCATION: street, city, county, and the whole name of a named hospital or clinic; a state or country is none.
- DATE: every date, month or holiday; a clock time beside it lies outside unless it is one token with it; no bare year.
- AGE_OVER_89: the number alone, in digits or words, from 90 on.
- All others: the reference itself without its label ("MRN", "SN"); an extension belongs to its telephone number.
"""
