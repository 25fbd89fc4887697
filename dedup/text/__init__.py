"""What is done to one document's text: normalise, judge, mask, and compare with evaluation files."""
