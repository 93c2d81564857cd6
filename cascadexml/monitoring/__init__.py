"""Batches of later records against what held-out records looked like.

`reference` is made with the model; `batch` reads what arrives; `quarantine` tells whether it is fit to be compared;
`profile` is what records look like to a model; `drift` compares two profiles, by `effects`; `comparison` does all of it
and gives the `verdict`, which `report` and `history` show to people.
"""
