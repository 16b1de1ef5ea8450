"""The gate before training: what a hospital hands over is scanned, set aside where doubtful, and can be forgotten.

    keys.py         the hospital's own key: patients and records under names that only it can make
    forgotten.py    tombstones: whose records come in no more
    admission.py    consent and tombstones; ids become keyed ones
    scan.py, risk.py   one document: find, replace, and how much may be left
    build.py        a whole source: by several processes, resumable, constant memory
    scan_sample.py  public records: a sample is reported on, nothing is rewritten
    sets.py         what that leaves on disk, and how it is found again
    drop.py         records taken out of it again
    lineage.py      which runs, adapters and splits saw which records
    source.py       a dataset's name -> records that may be trained on, and what the gate says of them

Everything lies in ``training.dataset.gate.folder``, readable by its owner only, and stays at the hospital.
"""
