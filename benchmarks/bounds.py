"""What bounds the times of each suite, in prose; revised by hand when the numbers move."""

BOUNDS = {
    ("permuted_mnist", "cpu"): """\
What bounds it. Matrix products, four to five tenths of a step; most of the rest is the pass over weights and gradients
that updates them and checks that they are finite, and gathering and permuting pixels. From 30 replicas on the weights
no longer fit the caches (12 MB), so that a replica gains nothing more from its neighbours. The loop adds autograd's
bookkeeping and a kernel for every operation. Rare work draws a candidate for every weight.
""",
    ("tiny_mnist", "cpu"): """\
What bounds it. Gathering and permuting pixels, as much for 10 units as for 100: 23,520 bytes a step and replica from
random places; then the matrix products of the first layer. The loop's time goes into calling operations one by one.
""",
    ("wide_mnist", "cpu"): """\
What bounds it. Bytes: each of the 9.6 million weights is read for two products of one example, and its gradient is
written, read and subtracted, so that two operations or three come to a number that is moved.
""",
    ("regression", "cpu"): """\
What bounds it. The entry of a compiled call, half of it for checking guards: the arithmetic of 30 replicas is less than
a tenth, so that replicas cost next to nothing up to a hundred. With shrink and perturb, whose noise is drawn for every
parameter and step, half of a step of 30 replicas goes into random numbers. The loop calls kernel by kernel.
""",
    ("continual_imagenet", "cpu"): """\
What bounds it. Convolutions: a CPU has fast kernels for those of one network only, so replicas take turns.
""",
    ("vision", "cpu"): """\
What bounds it. Operations: a step of the vision transformer takes 90 images of 65 tokens through 14.2 million weights,
three passes, about 0.5 TFLOP; the whole run is 525,000 steps.
""",
}
