"""What may come of a combination; here alone so that a process without the host can count them."""

RIGHT, REFUSED, WRONG = "right", "refused with words", "wrong"
