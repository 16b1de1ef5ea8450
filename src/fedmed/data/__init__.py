"""Medical questions and answers: load them, share them out among hospitals, encode them for a model.

load_dataset (hpo | local file | hub) -> federated_split (hospital -> records) -> encode (token ids)
"""
