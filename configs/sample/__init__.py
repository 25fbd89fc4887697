"""The embedded sample: a small Korean corpus in the forms that users meet, and what is planted in it."""
