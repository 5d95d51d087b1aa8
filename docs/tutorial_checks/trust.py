"""Checks what part 3 of the tutorial says about its outputs; the page runs it last."""

validation, test = (500 - errors[name].sum(axis=1).mean() for name in errors)
assert test + 1 < validation
few, many = interval(475, 500), interval(1900, 2000)
assert abs((few.high - few.low) / (many.high - many.low) - 2) < 0.05

by_digit = errors["test"].reshape(3, 10, 50).sum(axis=(0, 2))
assert by_digit.argmax() == 2
framed = np.flatnonzero(twos.sum(axis=0) >= 2)
assert len(framed) >= 4
assert (framed >= 25).mean() > 0.5
assert shuffled_fraction < 0.1 < 0.2 < file_fraction

assert new_by_digit[2] + 5 < by_digit[2]
assert new_by_digit.argmax() == 8
validation, test = (500 - new_errors[name].sum(axis=1).mean() for name in new_errors)
assert abs(validation - test) < 12

assert same_bits
assert 1 < losses[-20:].mean() < np.log(10)
assert guess_accuracy < 0.25
assert 8 <= only_first + only_second <= 35  # part 1 says about 20
assert round(stats.binomtest(8, 32).pvalue, 3) == 0.007
