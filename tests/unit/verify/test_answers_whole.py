r"""Answers that are nearly right, and right answers in other words: every one of its kind.

A line of a table is "reference | what is said"; it is said in several ways. What is wrong trains a
model on wrong answers, so none may be accepted.
"""

import re

import pytest

from tabom import judge

# The reference, and what must not pass for it: by the number checker and by the math checker.
WRONG = r"""
5 | 5 million
5 | 5 dozen
5 | 5k
5 | 5 1/2
5 | 5:30
5 | 5 + 5
5 | 5 to 9
5 | 5 or 6
5 | not 5
5 | negative 5
5 | more than 5
5 | 5% of 50
5 | less than 5
5 | at least 5
5 | 5 percent of 50
5 | 5 score
5 | 5 bn
5 | ~5
5 | 5^2
5 | 5!
5 | 5²
5 | 5e3
5 | 5 lakh
5 | between 5 and 6
5 | 5-6
5 | 5–6
5 | half of 5
5 | twice 5
5 | 5 squared
5 | 5 and a half
5 | 5 in base 7
5 | 5_7
5 | 5x
5 | 5ish
5 | -5
5 | over 5
5 | under 5
5 | 5, not 6
5 | 5+
5 | 5,000
5 | 5.5
5 | 5/2
5 | sqrt(5)
5 | 5 thousandths
5 | 5 m²x
5 | 5 wombat-ish
5 | 5 times 3
5 | 5 mod 3
5 | 5 out of 10
5 | unlikely to be 5
5 | anything but 5
5 | 5?
5 | 5..9
$36 | €36
$1,234 | 1234 cents
5 cm | 5 cm^2
5 m/s | 5 km/h
90 degrees | 90 radians
0 | not 0
18 | 18\text{M}
18 | 18 short of 20
18 | 18 per dozen
18 | 18th
18 | 18 out of 20
18 | 18 and 19
12 | 12 o'clock
3 dogs | 3 cats
20% | 20 dollars
100°F | 100°C
5 liters | 5 gallons
"""
# The same for mathematics alone.
WRONG_MATHEMATICS = r"""
5 | 5 trillion
5 | double 5
5 | never 5
5 | 5\text{ million}
5 | 5 \text{ dozen}
0 | \text{undefined at } 0
0 | \text{all reals except } 0
0 | undefined at 0
.0000673 | .0000672
0.0000004 | 0.0000001
\frac{1}{2006!} | \frac{1}{2004!}
2^{-98} | 2^{-99}
90^\circ | 90 \text{ radians}
\$36 | €36
\$1,234 | 1234 cents
\$1,234 | 1234\text{ cents}
m/s | km/h
5 \text{ m/s} | 5 \text{ km/h}
5\text{ cm} | 5\text{ cm}^2
12 | 12_7
12 | 12\text{ in base }7
12 | 12 in base 7
12 | 12_{\text{seven}}
(15,-29) | \{15,-29\}
1,234 | 1, 234
(a,b) | [a,b]
(-\infty,3) | [-\infty,3)
(1,2) | 1,2
(1,2,3) | (1,3,2)
\{1,2\} | (1,2)
x^2 | 5 x^2
\pi | 3.14
\pi | 3.1415
1.0000001 | 1.0000002
100000001 | 100000002
\frac{1}{1000001} | \frac{1}{1000002}
(.0000672, 1) | (.0000673, 1)
x+10^{-9} | x
5 | 5\approx 5.1
5 | 5 \sim
5 | x \ne 5
5 | \neq 5
5 | \pm 5
5 | 5!
5 | 5\%\text{ of }50
5 | 5\text{ or }6
5 | \text{at least }5
5 | 5 \pmod 7
5 | 5^\circ C x
5 | \sqrt{5}
10\text{ cm} | 10\text{ inches}
5\text{ kg} | 5\text{ lb}
\frac{\sqrt3}{2}\text{ cm} | \frac{\sqrt3}{2}\text{ m}
12\pi \text{ cm}^2 | 12\pi \text{ cm}
BA | AB
3r^2 | 3R^2
\begin{pmatrix}1\\2\end{pmatrix} | (2,1)
\begin{pmatrix}1\\2\end{pmatrix} | [1,2]
\text{Monday} | \text{Sunday}
\text{(C)} | \text{(D)}
0.5 | 50\text{ percent of }2
5 | -5\%
5 | 5\text{ hundredths}
"""

# The reference, and a whole response that is right; " |@ " is between them, since some have lines.
RIGHT_NUMBERS = r"""
5 |@ The answer is 5, which is odd.
5 |@ The answer is 5; done.
5 |@ The answer is = 5
5 |@ The answer is equal to 5.
5 |@ Answer: 5
5 |@ **Answer:** 5
5 |@ ### Final Answer
5
5 |@ ### Final Answer

**5**
5 |@ The answer is \( 5 \).
5 |@ The answer is 5 apples.
5 |@ The answer is 5, because 2 + 3 = 5.
5 |@ the answer is 5, since it is so
5 |@ The answer is $\displaystyle 5$.
5 |@ \boxed{\displaystyle 5}
5 |@ \boxed{\mathbf{5}}
0.5 |@ \boxed{\mathbf{\frac{1}{2}}}
-10 |@ The answer is -10%.
25 |@ \boxed{25\%}
25 |@ The answer is 25 percent.
25 |@ It is 25 percent.
18 |@ The answer is $18.
18 |@ The answer is 18 dollars per day.
18 |@ #### $18
18 |@ \boxed{18 \text{ dollars}}
5 |@ She has 5 cups of water left.
1234 |@ The answer is 1,234 miles.
5 |@ The answer is 5 cm
5 |@ so x = 5
5 |@ \[ \boxed{5} \]
5 |@ Final answer: 5 years old
2.5 |@ 2 1/2
2.5 |@ The answer is 2 1/2 hours.
5 |@ The answer is $5$ dollars.
5 |@ Therefore, the final answer is: $\boxed{5}$.
70000 |@ He makes $70,000 profit
5 |@ The answer to the question is 5.
5 |@ So the number of apples left is 5.
5 |@ \boxed{5} apples
5 |@ The answer is: 5
"""

RIGHT_MATHEMATICS = r"""
5 |@ The answer is 5, which is odd.
5 |@ The answer is 5; done.
5 |@ The answer is = 5
5 |@ The answer is equal to 5.
5 |@ Answer: 5
5 |@ **Answer:** 5
5 |@ ### Final Answer
5
5 |@ ### Final Answer

$5$
5 |@ ## Final Answer:
**5**
5 |@ The answer is \( 5 \).
5 |@ The answer is $\displaystyle 5$.
5 |@ \boxed{\displaystyle 5}
\frac12 |@ \boxed{\mathbf{\frac{1}{2}}}
52_8 |@ \boxed{(52)_8}
52_8 |@ \boxed{52_{(8)}}
52_8 |@ \boxed{52_{8}}
-10 |@ The answer is -10%.
-10 |@ \boxed{-10\%}
\emptyset |@ \boxed{\varnothing}
5 |@ \boxed{\textbf{(C)}\ 5}
\text{(C)} |@ \boxed{\textbf{(C)}\ 5}
\textbf{(C)}\ 5 |@ \boxed{5}
\textbf{(C)}\ 5 |@ \boxed{C}
\frac{\sqrt3}{2} |@ The answer is sqrt(3)/2.
\frac{\pi}{4} |@ The answer is pi/4.
\frac{\pi}{4} |@ \boxed{pi/4}
\begin{pmatrix}1\\-2\end{pmatrix} |@ \boxed{(1,-2)}
\begin{pmatrix}1\\-2\\3\end{pmatrix} |@ The answer is (1, -2, 3).
25 |@ \boxed{25\%}
18 |@ The answer is $18.
1234 |@ The answer is 1,234 miles.
2.5 |@ The answer is 2 1/2 hours.
5 |@ Therefore, the final answer is: $\boxed{5}$. I hope it is correct.
\pi |@ \boxed{3.14159}
\sqrt2 |@ \boxed{1.414214}
\frac13 |@ \boxed{0.333333}
(3,\frac{\pi}{2}) |@ \boxed{\left(3,\frac{\pi}{2}\right)}
x^2+2x+1 |@ The answer is \(x^2 + 2x + 1\), since (x+1)^2 expands so.
\frac{3}{4} |@ The answer is \(\frac{3}{4}\), as shown.
[0,1) |@ The answer is [0,1).
(-\infty,2)\cup(3,\infty) |@ The answer is $(-\infty,2)\cup(3,\infty)$.
12\pi |@ \boxed{12\pi\text{ square inches}}
5\sqrt2 |@ The answer is $5\sqrt{2}$ units.
5\sqrt2 |@ The answer is 5sqrt(2).
5\sqrt2 |@ The answer is 5*sqrt(2) cm
3 |@ The answer is x = 3.
3 |@ \boxed{x=3}
2 \pm \sqrt3 |@ \boxed{2 \pm \sqrt{3}}
\text{even} |@ \boxed{\text{even}}
17 |@ so the minimum value is $\boxed{17}$.
17 |@ The number of students who did not pass is $\boxed{17}$.
17 |@ which simplifies to $\boxed{17}$
17 |@ there are $\boxed{17}$ ways to do it
6+9i |@ \boxed{6 + 9i}
\frac{9}{256} |@ The answer is 9/256.
1000 |@ \boxed{10^3}
\left(-\frac{1}{2},3\right) |@ \boxed{(-0.5,3)}
f^{-1}(x)=\frac{x}{2} |@ \boxed{\frac{x}{2}}
90^\circ |@ \boxed{90}
\$18.90 |@ The answer is $18.90.
\text{Evelyn} |@ The answer is Evelyn, because she is fastest.
11 |@ The answer is **11**.
144 |@ The answer is 144 square meters.
70 |@ The answer is 70 km/h.
5 |@ The answer is the number 5.
y=2x+3 |@ The answer is $y = 2x + 3$.
-1 |@ The answer is $-1$, as \(x < 0\).
1,2,3 |@ \boxed{1, 2, 3}
3 |@ The answer is \(3\text{ hours}\).
"""

SAID = [r"\boxed{%s}", "The answer is %s.", "#### %s", "So the answer is $%s$."]


def pairs(table: str) -> list[tuple[str, str]]:
    return [tuple(line.split(" | ", 1)) for line in table.strip().split("\n")]  # type: ignore[misc]


def responses(table: str) -> list[tuple[str, str]]:
    cases = re.split(r"\n(?=[^\n]* \|@ )", table.strip())
    return [tuple(case.split(" |@ ", 1)) for case in cases]  # type: ignore[misc]


@pytest.mark.parametrize(("reference", "said"), pairs(WRONG))
def test_a_number_is_read_whole(reference, said):
    ways = ["%s", "It is %s.", *SAID[:3]]
    found = [
        way for way in ways if judge(way % said, reference=reference, kind="number").is_accepted
    ]
    assert found == []


@pytest.mark.parametrize(("reference", "said"), pairs(WRONG + WRONG_MATHEMATICS.lstrip()))
def test_an_answer_is_read_whole(reference, said):
    pytest.importorskip("math_verify")
    assert [way for way in SAID if judge(way % said, reference=reference).is_accepted] == []


@pytest.mark.parametrize(("reference", "response"), responses(RIGHT_NUMBERS))
def test_right_numbers(reference, response):
    assert judge(response, reference=reference, kind="number").is_accepted


@pytest.mark.parametrize(("reference", "response"), responses(RIGHT_MATHEMATICS))
def test_right_mathematics(reference, response):
    pytest.importorskip("math_verify")
    assert judge(response, reference=reference).is_accepted


def test_things_of_the_question_may_stand_beside_the_number():
    row = {"prompt": "How many zorkmids does Ada have?"}
    for kind in ("number", "math"):
        said = "The answer is 5 zorkmids."
        assert judge(said, reference="5", kind=kind, row=row).is_accepted
        assert not judge(said, reference="5", kind=kind).is_accepted


@pytest.mark.parametrize("kind", ["number", "math"])
def test_bombs_are_judged_at_once(kind):
    import time

    pytest.importorskip("math_verify")
    started = time.monotonic()
    for bomb in (
        "\\frac{" + " " * 3000, "\\boxed{" * 3000, "(" * 5000, "$" * 4000, "answer is " * 3000,
        "answer to " * 3000, "1," * 5000, "-" * 9000 + "1", "5 " * 5000, "\\text{" * 2000,
        "\\boxed{\\frac{" + " " * 3000 + "}", "####" * 3000, "9" * 9000, "a=" * 4000 + "5",
        "\\boxed{" + "(" * 400 + "1" + ")" * 400 + "}", "\\boxed{" + "1 + " * 240 + "1}", "\ud83d",
    ):  # fmt: skip
        assert not judge(bomb, reference="7", kind=kind).is_accepted
    assert time.monotonic() - started < 30
