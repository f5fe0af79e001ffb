"""What bounds the times of each suite, in prose; revised by hand when the numbers move."""

BOUNDS = {
    ("permuted_mnist", "cpu"): """\
What bounds it. Operations, for the greater part: of a step of six replicas on two threads, which are trained together,
63 % are matrix products, 13 % gathering and permuting pixels, 10 % the pass over weights and gradients that updates
them and checks that they are finite, and 7 % the entry of a compiled call (torch's profiler). The products come to 400
MFLOP at R = 30, 2.6 ms at the 155 GFLOP/s that these cores reach in large products; in the step they take 3.6 ms,
because weights come from the third cache. That is also why replicas are trained six at a time: all 30 together (12 MB
of weights) took a tenth more on a quiet machine. SWR's rare work, which draws a candidate for every weight, comes too
seldom to be worth compiling.

Methods in one population: with SWR, continual backpropagation and ReDo in one list, all of them off (None), a step of
30 replicas takes 1.05 (0.96 to 1.12) of a plain one, measured apart. So the figure's methods can share a population for
a twentieth more. On a CPU parts take turns anyhow, and nothing is gained.
""",
    ("tiny_mnist", "cpu"): """\
What bounds it. At R = 30 about a third are matrix products, too narrow for a core's vectors (10 columns: 48 to 113
GFLOP/s, 560 microseconds when tried apart), a quarter gathering and permuting pixels (23,520 bytes a step and replica
from random places), and the rest passes over small arrays and the entry of calls, one of two steps. JAX, which gathers
as fast, is ahead in these. The loop's time goes into calling operations one by one.
""",
    ("wide_mnist", "cpu"): """\
What bounds it. Bytes: each of the 9.6 million weights is read for two products of one example, and its gradient is
written, read and subtracted, so that two operations or three come to a number that is moved. Both sides move about the
same, so that neither can be much faster.
""",
    ("regression", "cpu"): """\
What bounds it. A block of ten steps is one kernel. At R = 1 nine tenths of a call are Python's way into it, which a
JAX scan takes once in hundreds of steps; at R = 100 the kernel itself takes about 10 of the 15 microseconds: rows of 20
and of 5 weights fill a vector of 16 badly, and every hidden unit ends in a sum across one. Here JAX draws the numbers
of its examples for 200 steps ahead; drawn step by step in the scan, as ours are keyed, it took 27 to 34 microseconds at
R = 100 when tried by itself, twice ours. Blocks of 20 steps bring ours from 15 to 12.6, and take 32 seconds to compile.
With shrink and perturb, whose noise is drawn for every parameter and step, most of a step goes into random numbers.
""",
    ("continual_imagenet", "cpu"): """\
What bounds it. Convolutions: a CPU has fast kernels for those of one network only, so replicas take turns.
""",
    ("vision", "cpu"): """\
What bounds it. Operations: a step of the vision transformer takes 90 images of 65 tokens through 14.2 million weights,
three passes, about 0.5 TFLOP; the whole run is 525,000 steps.
""",
    ("growth", "cpu"): """\
From 256 replicas of 3 x 100 units on, and from 1,000 units on, a sample is one step or two, after which the next part
takes its turn and finds the caches empty. A run lets each part go on for a quarter of a second: so do the samples of
the suites above, where 180 replicas take 176 microseconds each.
""",
}
