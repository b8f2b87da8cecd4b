r"""Answers of every kind that MATH has: each is itself, also written otherwise; not near misses.

The tables are one case a line: the gold answer, and what a response says.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tabom.verify.checker import Response
from tabom.verify.latex import readable, same_text
from tabom.verify.math_pool import MathPool
from tabom.verify.quantity import read_quantity
from tabom.verify.symbolic import judge_math

GOLDS = r"""
\frac{3}{56}
\frac14
\frac 34
\dfrac{9}{7}
\tfrac12
\frac9{19}
-\frac{1}{2}
-\frac{35}{9}
2\frac{1}{2}
3\frac{1}{2}
1\frac{4}{5}
\left( 3, \frac{\pi}{2} \right)
(3, \frac{\pi}{2})
(-3,5)
(6,31,-1)
\left(\frac{3}{5},\frac{8}{3}\right]
\left[ -\frac{1}{2}, \frac{1}{2} \right]
(-\infty, 0]
(-\infty,2)\cup(3,\infty)
(3,\infty)
[0,\infty)
(0,9) \cup (9,36)
[-2,7]
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left(\begin{array}{c} 1 \\ 2 \end{array}\right)
\begin{bmatrix} 0 & 1 \\ 1 & 0 \end{bmatrix}
\{1,2,3\}
\{1\pm\sqrt{5},-2\}
1 \pm \sqrt{19}
1,-2
3, 5, 7
1,2,3,4
\text{Friday}
\text{Evelyn}
\text{ellipse}
\text{(C)}
\text{(A)}
\text{B}
\text{even}
\text{Yes}
\text{June 20}
90^\circ
90
145^\circ
\$32,\!348
\$5.50
\$0.75
\$18.90
11,\! 111,\! 111,\! 100
58,500
2220_5
1024_7
52_8
10101_2
2516_8
4343_6
50\%
0.5\%
20\%
3\sqrt{13}
\frac{2 \sqrt{149}}{3}
2\sqrt{3}
\sqrt{51}
6 - 5i
1+2i
3+4i
-2 + 7i
p - q
2k+2
x^2-4x+4
x^3 + 3x - 6
6r^2-4r-24
y = 2x + 3
y=-\frac{1}{2}x+4
x=5
x \in [-2,7]
-2 \le x \le 7
x > 3
3 \le x < 5
x^2 + y^2 = 25
12\pi
\frac{\pi}{6}
\pi
2\pi - 4
e^2
\ln 2
\log_2 3
2^{10}
3^{20}
10!
\binom{10}{3}
5.4 \text{ cents}
5\text{ cm}
10\text{ inches}
864 \mbox{ inches}^2
15\mbox{ cm}^2
8\text{ square units}
3 \text{ hours}
6 \text{ feet}
70 \text{ km/h}
\text{2 and 3}
2 \text{ and } 3
2\text{ or }3
(1,2), (3,4)
(0,0) \text{ and } (1,1)
x = 2, y = 3
-1
0
1
.5
0.05
0.\overline{3}
0.\overline{72}
1.25 \times 10^{-3}
6.02 \times 10^{23}
1:2
3:4
\sin x
\cos 2x
\tan^2 \theta
\cot x
\frac{x+2}{7}
\frac{1}{x-1}
\frac{b-a}{c}
a^2+b^2
x^{27} - 4x^{14}
5(5x-3)(25x^2+15x+9)
(x+2)(x-3)
-3, -1, 1
\infty
-\infty
\emptyset
\sqrt[3]{2}
\sqrt{x}
\frac{\sqrt{3}}{3}
\frac{3+\sqrt{5}}{2}
|x-3|
\lfloor x \rfloor
9:30
10:15 \text{ a.m.}
4:30 \text{ p.m.}
17\frac{1}{2}
\text{Monday}
\frac{17}{50}
2.5
120^\circ
y^4-2y^3+7y^2+y-5
\mathbf{v}
\begin{pmatrix} 16/49 \\ 48/49 \\ 24/49 \end{pmatrix}
\left(\frac{1}{3},\frac{2}{3}\right)
AB
\angle ABC
\triangle ABC
\sqrt{2} + \sqrt{3}
1 + \frac{1}{n}
\mathrm{cis}\, 120^\circ
\operatorname{lcm}
n(n+1)/2
3/4
-5 < x < 5
[2,5)
\text{none}
\text{all real numbers}
\mathbb{R}
5, \text{no } 6
4\sqrt{2}-4
-\sqrt{7}
\ 10
f(x) = x^2
\frac{a}{b}
\left\{ \frac{1}{2}, 3 \right\}
10 \text{ degrees}
2:1
76
\frac{1}{4}, \frac{1}{2}
\overline{AB}
12{,}500
1{,}000{,}000
\dfrac{\sqrt{21}}{5}
y=\frac{-3}{4}x-\frac{1}{2}
\text{odd}
7.5\times 10^4
"""

SAME = r"""
\frac14 | 0.25
\frac14 | 1/4
\frac14 | \dfrac{1}{4}
2\frac{1}{2} | \frac{5}{2}
2\frac{1}{2} | 2.5
\frac{5}{2} | 2\frac{1}{2}
17\frac{1}{2} | 17.5
-3\frac{1}{2} | -3.5
\text{Friday} | Friday
\text{Friday} | \textbf{Friday}
\text{Friday} | \text{friday}
Friday | \text{Friday}
\text{(C)} | C
\text{(C)} | (C)
\text{(C)} | \text{C}
\text{C} | \text{(C)}
\text{(A)} | A
90^\circ | 90
90 | 90^\circ
90^\circ | 90 degrees
90^\circ | 90^{\circ}
90^\circ | 90\text{ degrees}
90 | 90°
\$5.50 | 5.50
\$5.50 | 5.5
\$5.50 | $5.50
\$5.50 | \$5.50
5.50 | \$5.50
\$32,\!348 | 32348
\$32,\!348 | 32,348
\$32,\!348 | \$32,348
11,\! 111,\! 111,\! 100 | 11111111100
11,\! 111,\! 111,\! 100 | 11,111,111,100
58,500 | 58500
58500 | 58,500
1{,}000{,}000 | 1000000
1024_7 | 1024_{7}
2220_5 | 2220_{5}
1024_7 | 1024_{\text{seven}}
1024_7 | 1024
50\% | 50%
50\% | 0.5
50\% | 50
50 | 50\%
50 | 50%
(3, \frac{\pi}{2}) | \left(3,\frac{\pi}{2}\right)
(3, \frac{\pi}{2}) | (3, \pi/2)
(-\infty,2)\cup(3,\infty) | (3,\infty)\cup(-\infty,2)
(-\infty,2)\cup(3,\infty) | \left(-\infty,2\right)\cup\left(3,\infty\right)
x \in [-2,7] | [-2,7]
[-2,7] | x\in[-2,7]
[-2,7] | -2 \le x \le 7
-2 \le x \le 7 | [-2,7]
x > 3 | (3,\infty)
x > 3 | 3 < x
3 \le x < 5 | [3,5)
(3,\infty) | x > 3
\{1,2,3\} | \{3,2,1\}
\{1,2,3\} | 1,2,3
1,2,3 | \{1,2,3\}
1,-2 | -2,1
1,-2 | 1 and -2
1,-2 | 1\text{ and }-2
1,-2 | x=1,-2
1,-2 | x=1, x=-2
1,-2 | x = 1 \text{ or } x = -2
x=5 | 5
5 | x=5
5 | x = 5.0
2 \text{ and } 3 | 2,3
2\text{ or }3 | 3, 2
1 \pm \sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19}
1 \pm \sqrt{19} | 1-\sqrt{19}, 1+\sqrt{19}
1 \pm \sqrt{19} | 1\pm\sqrt{19}
3\sqrt{13} | \sqrt{117}
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
\frac{2 \sqrt{149}}{3} | \frac23\sqrt{149}
6 - 5i | -5i+6
p - q | -q+p
y = 2x + 3 | y=3+2x
y = 2x + 3 | 2x+3
y = 2x+3 | 2x - y + 3 = 0
x^2-4x+4 | (x-2)^2
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix} -\frac{1}{3} \\ \frac23 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \left(\begin{array}{c} 1 \\ 2 \end{array}\right)
5\text{ cm} | 5
5\text{ cm} | 5 cm
5 | 5\text{ cm}
5 | 5\,\text{cm}
5 | 5 \mathrm{~cm}
15\mbox{ cm}^2 | 15
15 | 15\text{ cm}^2
15 | 15 cm^2
15 | 15 \text{ square units}
864 \mbox{ inches}^2 | 864
10\text{ inches} | 10
3 \text{ hours} | 3
5.4 \text{ cents} | 5.4
70 \text{ km/h} | 70
.5 | 0.5
0.5 | .5
0.\overline{3} | \frac13
1.25 \times 10^{-3} | 0.00125
1:2 | 1:2
\frac{b-a}{c} | \frac{-(a-b)}{c}
\pi | \pi
12\pi | 12 \pi
12\pi | 12\cdot\pi
f(x) = x^2 | x^2
x^2 | f(x) = x^2
5(5x-3)(25x^2+15x+9) | 625x^3 + 135 - 270
10! | 3628800
\binom{10}{3} | 120
2^{10} | 1024
-\frac{1}{2} | \frac{-1}{2}
-\frac{1}{2} | -0.5
\ 10 | 10
y=\frac{-3}{4}x-\frac{1}{2} | y=-\frac{3}{4}x-\frac{1}{2}
\log_2 3 | \frac{\ln 3}{\ln 2}
\text{June 20} | June 20
\text{2 and 3} | 2 and 3
\text{even} | even
\text{even} | \text{ even}
\text{Yes} | yes
10:15 \text{ a.m.} | 10:15 a.m.
4:30 \text{ p.m.} | 4:30 p.m.
(0,0) \text{ and } (1,1) | (0,0), (1,1)
(1,2), (3,4) | (1,2) and (3,4)
120^\circ | 120^{\circ}
6.02 \times 10^{23} | 6.02 \cdot 10^{23}
\frac{3}{56} | 3/56
\frac{3}{56} | \frac{6}{112}
\left( 3, \frac{\pi}{2} \right) | (3,\frac\pi2)
-1 | −1
\sqrt{51} | \sqrt{51}.
7 | \mathbf{7}
7 | **7**
7 | \text{7}
\frac{\pi}{2} | \frac\pi2
\frac{\pi}{2} | \frac\pi{2}
\frac{1}{x} | \frac1x
\frac{1}{x} | \frac{1}x
0.3\overline{3} | \frac13
0.\overline{72} | \frac{8}{11}
\frac13 | 0.\bar{3}
\frac{7}{2} | 3 1/2
3\frac12 | 3 1/2
\frac12 | ½
2\frac12 | 2½
\sqrt3 | √3
2\sqrt{3} | 2√3
x^2 | x²
x \le 3 | x ≤ 3
\infty | ∞
1000 | 1\,000
1000 | 1 000
1000 | 1,000
11,\! 111,\! 111,\! 100 | 11 111 111 100
0.001 | 1e-3
1500 | 1.5e3
(3, \frac{\pi}{2}) | (3, π/2)
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\log_2 3 | \log_{2} 3
\frac{3+\sqrt{5}}{2} | \frac{\sqrt5+3}2
\frac{\frac12}{3} | \frac16
5\text{ cm} | 5\text{ centimeters}
\$5 | 5 dollars
5 \text{ minutes} | 5 min
9:30 \text{ a.m.} | 9:30 AM
9:30 | 9:30
-\frac\pi3 | -\frac{\pi}{3}
y = \frac14 x^2 | y = \frac{x^2}{4}
\binom52 | 10
\frac{10}{3} | \frac{10}3
\frac{10}{3} | 10/3
(-\infty, 3] | x \le 3
(-1,2) | -1 < x < 2
[0,\infty) | x \ge 0
\text{Monday} | Monday
\text{June 20} | \text{June }20
"""

DIFFERENT = r"""
\frac14 | \frac13
\frac14 | 14
2\frac{1}{2} | 1
2\frac{1}{2} | 2
2\frac{1}{2} | \frac12
\text{Friday} | \text{Monday}
\text{Friday} | Thursday
\text{(C)} | \text{(D)}
\text{(C)} | D
90^\circ | 80^\circ
90^\circ | 9
\$5.50 | 5.05
\$5.50 | 550
\$32,\!348 | 32
\$32,\!348 | 348
\$32,\!348 | 32,349
1024_7 | 1024_8
1024_7 | 1025_7
2^{10} | 1024_7
4 | 100_2
1024_7 | 7
1024_7 | 102
50\% | 5\%
50\% | 0.05
(3, \frac{\pi}{2}) | (\frac{\pi}{2}, 3)
(3, \frac{\pi}{2}) | (3, \pi)
(3, \frac{\pi}{2}) | 3
(-\infty,2)\cup(3,\infty) | (-\infty,2]\cup(3,\infty)
(-\infty,2)\cup(3,\infty) | (-\infty,2)
[-2,7] | (-2,7)
[-2,7] | [-2,7)
[-2,7] | [-2,8]
[-2,7] | 7
x > 3 | x < 3
x > 3 | x \ge 3
x > 3 | 3
3 | x > 3
x > 3 | [3,\infty)
3 \le x < 5 | [3,5]
3 \le x < 5 | 3 \le x \le 5
3 \le x < 5 | 5
\{1,2,3\} | \{1,2\}
\{1,2,3\} | \{1,2,4\}
\{1,2,3\} | 3
1,2,3 | 1,2
1,2,3 | 3
3 | 1,2,3
1 | 1,2,3
1,-2 | 1
1,-2 | 1,2
1,-2 | -2
1 | 1,-2
2 \text{ and } 3 | 2
2 \text{ and } 3 | 3
2 | 2 \text{ and } 3
3 | 2\text{ or }3
3 | 2 and 3
1 \pm \sqrt{19} | 1 + \sqrt{19}
1 \pm \sqrt{19} | 1 - \sqrt{19}
1 \pm \sqrt{19} | \pm \sqrt{19}
3\sqrt{13} | 3
3\sqrt{13} | \sqrt{13}
3\sqrt{13} | 13
3\sqrt{13} | 313
6 - 5i | 6+5i
6 - 5i | 6
y = 2x + 3 | y = 2x - 3
y = 2x + 3 | x = 2y + 3
y = 2x + 3 | 3
x^2-4x+4 | x^2+4x+4
x^2-4x+4 | 4
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} | \begin{pmatrix} 1/3 \\ 2/3 \\ 5/3 \end{pmatrix}
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} | \begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | 4
5\text{ cm} | 5\text{ m}
15\mbox{ cm}^2 | 225
15\mbox{ cm}^2 | 2
864 \mbox{ inches}^2 | 864^2
5.4 \text{ cents} | 54
0.\overline{3} | 0.3
0.\overline{3} | 3
0.\overline{72} | 0.72
1.25 \times 10^{-3} | 1.25
1.25 \times 10^{-3} | 1.25 \times 10^{3}
1:2 | 2:1
1:2 | 1
1:2 | 2
12\pi | 12
12\pi | \pi
12 | 12\pi
f(x) = x^2 | x
10! | 10
\binom{10}{3} | \frac{10}{3}
2^{10} | 210
2^{10} | 2
-\frac{1}{2} | \frac12
\sin x | \cos x
\sqrt[3]{2} | \sqrt{2}
\log_2 3 | \log_3 2
\text{June 20} | June 21
\text{June 20} | 20
\text{2 and 3} | 2 and 4
\text{even} | odd
10:15 \text{ a.m.} | 10:15 \text{ p.m.}
10:15 \text{ a.m.} | 10:45 \text{ a.m.}
9:30 | 9
9:30 | 9:00
(0,0) \text{ and } (1,1) | (0,0)
(0,0) \text{ and } (1,1) | (1,1)
(1,2), (3,4) | (1,2)
(1,2), (3,4) | (3,4)
(1,2), (3,4) | (1,2), (3,5)
x = 2, y = 3 | x = 3, y = 2
x = 2, y = 3 | 3
(-3,5) | (3,5)
(-3,5) | (5,-3)
(-3,5) | [-3,5]
6 | 6 \text{ or } 7
\overline{AB} | \overline{BC}
\infty | -\infty
\text{none} | \text{all}
\emptyset | 0
0 | \emptyset
\ln 2 | \ln 3
n(n+1)/2 | n(n-1)/2
6.02 \times 10^{23} | 6.02 \times 10^{24}
100 | 100 million
10 | 10 dozen
5 | 5 or 6
5 | between 5 and 6
5 | 5 \text{ or } 6
5 | 4 < x < 5
5 | (4,5)
5 | 5 + x
5 | 5 = 6
1 | 1/0
x=5 | y=6
0 | 14 0
0 | 1 000
1\,000 | 0
1000 | 0
1000 | 1
1024_7 | 1024_{8}
0.\overline{3} | 0.33
2 | 3 1/2
\text{June 20} | July 20
June 20 | July 20
June 20 | 20
5\text{ cm} | 5 mm
\$50 | 50 cents
9:30 \text{ a.m.} | 9:30 \text{ p.m.}
9:30 \text{ a.m.} | 3:10 \text{ a.m.}
(-\infty, 3] | x < 3
(-1,2) | -1 \le x < 2
(-1,2) | x > -1
(-1,2) | x = 2
[0,\infty) | x > 0
\frac\pi2 | \frac\pi3
12 | 1 2
1 | 1 2
2 | 1 2
3 | 1 2 3
(4,5) | 4 < x
(4,5) | x \in [4,5]
x < 5 | x > 5
5 | x < 5
5 | x > 5
(2,\infty) | 2
"""

# gold | response | whether it is right
RESPONSES = r"""
5 | The answer is 5, because 2+3=5. | 1
\frac12 | The answer is $\frac{1}{2}$, since it is half. | 1
5 | The answer is therefore 5. | 1
5 | The answer is: $x = 5$. | 1
\text{Friday} | The answer is Friday. | 1
(1,2) | The answer is the point $(1,2)$. | 1
3,4 | The answer is 3 and 4. | 1
3 | The answer is 3 and 4. | 0
5 | The answer is not 5. | 0
5 | The answer is 5.5. | 0
5 | The answer is 5. 6 more | 1
5.5 | The answer is 5.5. | 1
1000 | The answer is 1,000. | 1
\sqrt{2} | The answer is sqrt(2). | 1
\text{(C)} | The answer is (C). | 1
\text{(C)} | The answer is C. | 1
\text{(C)} | The answer is \textbf{(C)}. | 1
2\frac12 | The answer is 2 1/2. | 1
50\% | The answer is 50%. | 1
50\% | The answer is 50 percent. | 1
90^\circ | The answer is 90 degrees. | 1
\$5.50 | The answer is $5.50. | 1
\$5.50 | The answer is \$5.50. | 1
5 | The answer is 5 or so. | 0
5 | the answer is\n$$5$$ | 1
5 | The answer is \(5\). | 1
5 | The answer is \[5\] | 1
x^2+1 | The answer is $x^2+1$. | 1
x^2+1 | The answer is x^2+1. | 1
"""


@pytest.fixture(scope="module")
def pool():
    pytest.importorskip("math_verify")
    pool = MathPool(num_workers=2)
    yield pool
    pool.close()


def verdicts(pool, pairs):
    """(gold, response, reason, detail) of each pair."""

    def one(pair):
        gold, response = pair
        found = judge_math(Response(text=response, reference=gold), pool=pool)
        return gold, response, found.reason, found.detail

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(one, pairs))


def boxed(text):
    return f"Thus $\\boxed{{{text}}}$."


def lines(table):
    return [[part.strip() for part in line.split(" | ")] for line in table.strip().split("\n")]


def test_every_gold_answer_is_itself_in_every_form(pool):
    golds = GOLDS.strip().split("\n")
    forms = [(g, form) for g in golds for form in (boxed(g), f"So. The answer is {g}.")]
    assert [v for v in verdicts(pool, forms) if v[2] != "accepted"] == []


def test_the_same_written_otherwise(pool):
    found = verdicts(pool, [(gold, boxed(answer)) for gold, answer in lines(SAME)])
    assert [v for v in found if v[2] != "accepted"] == []


def test_near_misses(pool):
    found = verdicts(pool, [(gold, boxed(answer)) for gold, answer in lines(DIFFERENT)])
    assert [v for v in found if v[2] not in ("wrong", "unverifiable")] == []
    # Only what is text, or no mathematics, may be undecided.
    assert [v for v in found if v[2] == "unverifiable" and "text" not in v[3]] == []


def test_behind_the_answer_is(pool):
    rows = lines(RESPONSES)
    found = verdicts(pool, [(gold, text.replace(r"\n", "\n")) for gold, text, _ in rows])
    wanted = [is_right == "1" for *_, is_right in rows]
    assert [
        v for v, right in zip(found, wanted, strict=True) if (v[2] == "accepted") != right
    ] == []


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\frac{\frac12}3", r"\frac{\frac{1}{2}}{3}"),
        (r"0.1\overline{6}", r"\frac{1}{6}"),
        (r"1.\bar{3}", r"\frac{4}{3}"),
        ("3 1/2", r"3\frac{1}{2}"),
        (r"1\,234\,567", "1234567"),
        ("√12", r"\sqrt{12}"),
        ("14 0", None),  # math-verify makes 0 of it
        ("x^2 3", "x^2 3"),
    ],
)
def test_readable(text, latex):
    assert readable(text) == latex


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("5 cm", {"cm": 1}),
        (r"5\text{ cm}", {"cm": 1}),
        (r"15\mbox{ inches}^2", {"in": 2}),
        (r"15 \text{ square feet}", {"ft": 2}),
        ("15 cubic cm", {"cm": 3}),
        (r"\frac{1}{2}\text{ hour}", {"h": 1}),
        ("70 km/h", {"km": 1, "h": -1}),
        ("70 miles per hour", {"mi": 1, "h": -1}),
        ("70 mph", {"mi": 1, "h": -1}),
        ("$5.50", {"dollar": 1}),
        (r"\$5", {"dollar": 1}),
        ("£5", {"lb": 1}),
        ("90°", {"degree": 1}),
        ("5%", {"percent": 1}),
        ("5", {}),
        ("$5$", {}),
        ("5 apples", {}),
    ],
)
def test_the_unit_of_a_quantity(text, name):
    assert dict(read_quantity(text).unit.factors) == name


def test_spaces_count_between_digits_alone():
    assert same_text(r"\text{June 20}", "June  20")
    assert not same_text("12", "1 2")
    assert not same_text("5.50", "550")
    assert not same_text("", " ")
