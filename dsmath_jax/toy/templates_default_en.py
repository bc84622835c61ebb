"""The English mathematics pages of the default toy web, as grammar tables (see grammar.py)."""

WORDS = r"""
who = Clara, Derek, Elena, Felix, Gina, Henry, Irene, Jonas, Karla, Liam, Marta, Nils, Olive, Pablo, Quinn,
    Rosa, Simon, Tessa
friend = Uma, Victor, Wendy, Xavier, Yara, Zane, Bruno, Cora, Dario, Edith, Frida, Gavin
things = apples, pens, coins, books, cards, eggs, cookies, pencils, buttons, oranges, tickets, photos, stones,
    cups, toys, flowers
other = plums, crayons, badges, magnets, ribbons, candles, spoons, kites, lemons, postcards
box = boxes, bags, trays, shelves, rows, baskets, packets, crates
place = the classroom, the kitchen, the market stall, the library, the garden shed, the club room, the
    workshop, the bakery
day = Monday, Tuesday, Wednesday, Thursday, Friday, Saturday
learner = pupils, learners, students, beginners, children, young readers
good = useful, reliable, simple, quick, safe, handy, clear, steady
often = often, usually, in most cases, again and again, sooner or later, quite regularly
answer
  The answer is @r.
  The answer is @r.
  The answer is @r.
  So the result is @r.
  That makes @r.
  Answer: @r.
  The final number is @r.
why
  A @good habit is to write every step on its own line.
  Check the last digit before you go on; it catches most slips.
  Try it again with your own numbers and compare.
  Notice that the order of the steps matters here.
  An estimate beforehand tells you @often whether the result can be right.
  @learner who say the steps aloud make fewer mistakes.
  If you get stuck, draw one dot for each thing and count.
  The reverse calculation brings you back to the start, which is a @good check.
closing
  Practise @5to15 of these every @day and they become easy.
  Next lesson: more @topic_word with larger numbers.
  Cover the solutions, work them out yourself, then compare line by line.
  Write down one exercise of your own and let a friend solve it.
  When all of this feels easy, move on to the mixed review of week @2to30.
  Keep a notebook for @topic_word; mistakes that are written down are @often not made twice.
topic_word = sums, exercises, problems, number work, calculation, reasoning
"""

ARITHMETIC = r"""
title_arithmetic
  Worked sums with @things, set @2to99
  Mental arithmetic for @learner: lesson @2to99
  Word problems at @place, part @2to60
  Step by step calculation with @things and @other
  Practice sheet @11to99: @title_skill
  @title_skill: examples with solutions
title_skill = adding and taking away, times tables, sharing equally, two-step problems, mixed operations, number stories
intro_arithmetic
  This page shows @learner how to solve number problems one step at a time. Every example has its calculation
    and the answer.
  Here is a set of worked examples about @things and @other. Read the story, find what is asked, then calculate.
  We practise the four operations today: plus, minus, times and divided by. The numbers stay small, so no
    calculator is needed.
  Arithmetic is learned by doing. Follow the solutions below and then repeat them without looking.
  At @place there is always something to count. That is what these exercises on @title_skill are about.
idea_arithmetic
  Addition and subtraction undo each other, and so do multiplication and division.
  Multiplication is repeated addition: «@2to9 \times a» means that many copies of «a».
  Subtracting can be seen as the distance between two numbers on the number line.
  The order of the addends does not change the sum: «a + b = b + a».
  Multiplication comes before addition: in «a + b \times c» you find the product first.
  To divide means to share into equal parts, or to ask how often one number fits into another.
  Zero added to a number leaves it as it is, and one times a number is that number.
  A product with @2to9 equal factors is called a power.
add
  @Who picked @a @things in the morning and @b in the afternoon. How many is that altogether? // @a + @b = @r // @answer
  Example. In @place stand @a @things, and @friend brings @b more. @solve_add
  Put @a @things and @b @other into one big box. To find the total we add: @a + @b = @r. @answer
  What is @a plus @b? @solve_add @why
  @Friend counted @a @things on @day and @b on the next day. Both days together: @a + @b = @r. @answer
  The sum of @a and @b is @r, because @a + @b = @r.
solve_add
  @a + @b = @r. @answer
  We add the two numbers: @a + @b = @r. @answer
  // > @a + @b = @r // @answer
  Plus is needed here, so «@a + @b = @r». @answer
  Counting on from @a by @b gives @r. @answer
subtract
  @Who baked @a @things and @b of them were eaten. What remains? @solve_subtract
  There were @a @things in @place; @friend took @b away. @solve_subtract
  Question: how much is @a minus @b? @solve_subtract
  Of @a @things, @b are broken. The rest is fine: @a - @b = @r. @answer
  @Who wants @a @things but owns only @b. The missing number is @a - @b = @r. @answer
  The difference of @a and @b is @r, since @a - @b = @r and @r + @b = @a.
  A rope of @a metres is cut by @b metres. @solve_subtract @why
solve_subtract
  @a - @b = @r. @answer
  We take away: @a - @b = @r. @answer
  // > @a - @b = @r // @answer
  Minus tells us what is left, «@a - @b = @r». @answer
  Going back from @a by @b we land on @r. @answer
multiply
  Each of @a @box holds @b @things. Altogether: @a * @b = @r. @answer
  @Who reads @b pages a day for @a days. @solve_multiply
  One ticket costs @b coins. What do @a tickets cost? @solve_multiply
  How much is @a times @b? @solve_multiply
  A wall has @a rows of @b tiles. @solve_multiply @why
  The product of @a and @b is @r: @a * @b = @r.
solve_multiply
  @a * @b = @r. @answer
  We multiply: @a * @b = @r. @answer
  // > @a * @b = @r // @answer
  Equal groups call for times, so «@a \times @b = @r». @answer
  @a copies of @b make @r, that is @a * @b = @r. @answer
divide
  @Who packs @a @things into @b @box, the same number in each. @solve_divide
  @b children split @a @things fairly. Every child gets @a / @b = @r. @answer
  What is @a divided by @b? @solve_divide
  How often does @b fit into @a? @solve_divide
  A ribbon of @a cm is cut into @b equal pieces. @solve_divide @why
  The quotient of @a and @b is @r, because @r * @b = @a.
solve_divide
  @a / @b = @r. @answer
  We divide: @a / @b = @r. @answer
  // > @a / @b = @r // @answer
  Sharing equally means division, «@a \div @b = @r». @answer
  Since @r * @b = @a, we know that @a / @b = @r. @answer
compare
  @Who has @a @things and @Friend has @b more than that. How many do they own together? @Friend owns @a + @b =
    @s, and both own @a + @s = @r. @answer
  One shelf carries @a @things, a second shelf @b more than the first. // > @a + @b = @s // > @a + @s = @r // @answer
  On @day @a @things were sold, the day after @b more. The second day: @a + @b = @s. Both days: @a + @s = @r. @answer
multiply_add
  @Who fills @a @box with @b @things each and finds @c more under the table. @solve_multiply_add
  Work out @a * @b + @c. The product comes first. @solve_multiply_add
  A bus makes @a trips with @b guests, and @c guests walk. @solve_multiply_add
  Buy @a @things for @b coins each and one lamp for @c coins. The bill: @a * @b = @s and @s + @c = @r. @answer
solve_multiply_add
  @a * @b = @s. @s + @c = @r. @answer
  // > @a * @b = @s // > @s + @c = @r // @answer
  First times, then plus: @a * @b = @s, and @s + @c = @r. @answer
  Step one is «@a \times @b = @s»; step two is «@s + @c = @r». @answer
multiply_subtract
  @Friend orders @a @box with @b @things in every one, but @c are damaged. @solve_multiply_subtract
  Work out @a * @b - @c. @solve_multiply_subtract
  @Who earns @b coins an hour, works @a hours and spends @c coins. What is kept? @solve_multiply_subtract
  A book has @a chapters of @b pages, and @c pages are read already. @solve_multiply_subtract
solve_multiply_subtract
  @a * @b = @s. @s - @c = @r. @answer
  // > @a * @b = @s // > @s - @c = @r // @answer
  First times, then minus: @a * @b = @s, and @s - @c = @r. @answer
  Step one is «@a \times @b = @s»; step two is «@s - @c = @r». @answer
two_products
  @a @box hold @b @things each and @c @box hold @d each. @a * @b = @s. @c * @d = @t. @s + @t = @r. @answer
  @Who buys @a @things at @b coins and @c @other at @d coins. // > @a * @b = @s // > @c * @d = @t // > @s + @t =
    @r // @answer
  Compute @a * @b + @c * @d. Both products first: @a * @b = @s and @c * @d = @t. Then @s + @t = @r. @answer
add_divide
  @Who mixes @a @things with @b @other and makes @c equal piles. @a + @b = @s. @s / @c = @r. @answer
  There are @a girls and @b boys; teams of @c are formed. // > @a + @b = @s // > @s / @c = @r // @answer
  Compute (@a + @b) / @c. The bracket first: @a + @b = @s. Then @s / @c = @r. @answer
add_subtract
  @Who had @a @things, was sent @b and used up @c. @a + @b = @s. @s - @c = @r. @answer
  On the train are @a people; @b get on and @c get off. // > @a + @b = @s // > @s - @c = @r // @answer
  Compute @a + @b - @c from left to right: @a + @b = @s, then @s - @c = @r. @answer
tens
  To add @a and @b, add the tens, @p + @u = @s, then the ones, @q + @v = @t. Together @s + @t = @r. @answer
  Splitting helps with @a + @b: «@p + @u = @s» and «@q + @v = @t», so @a + @b = @r.
chain
  Start with @start. @phrases. What do you get? // @equations // The answer is @r.
  Think of @start. @phrases. @equations The answer is @r.
  @Who writes down @start, then: @phrases. @equations @answer
  Number chain: @start. @phrases. // @equations // @answer
do_plus
  add @n
  put @n more to it
  make it @n larger
do_minus
  subtract @n
  take @n away
  make it @n smaller
do_times
  multiply by @n
  take it @n times
do_over
  divide by @n
  split it into @n equal parts and keep one
drill_intro
  Quick drill. Cover the right-hand side and say the result.
  Now @count facts in a row; read them aloud.
  Warm-up for @learner:
  Repeat these until they come without thinking.
drill_add
  @a + @b = @r
  @a plus @b is @r
drill_subtract
  @a - @b = @r
  @a minus @b is @r
drill_multiply
  @a * @b = @r
  @a times @b is @r
drill_divide
  @a / @b = @r
  @a divided by @b is @r
table_intro
  # The table of @n // The multiples of @n, one line each:
  # Times table: @n // Learn the table of @n by heart, first forwards and then backwards.
"""

TOPICS = r"""
title_algebra
  Solving equations with unknowns, lesson @2to60
  Algebra notes @2to90: variables and equations
  Quadratic and linear equations, worked
intro_algebra
  An equation stays true when the same operation is applied to both sides. We use that to isolate the variable.
  Algebra replaces a number that is not yet known by a letter. The examples solve for that unknown.
  In this lesson on expressions and equations we solve, expand, factor and check.
idea_algebra
  A term such as «@2to9 x» is a coefficient times a variable.
  Factoring turns a sum into a product, «x^2 + a x = x (x + a)», which shows the roots.
  Two linear equations with two unknowns have, in general, exactly one common solution.
  The discriminant «b^2 - 4 a c» of a quadratic decides how many real roots there are.
  Always substitute the solution back into the equation: both sides must agree.
  A polynomial of degree «n» has at most «n» real roots.
linear
  Solve «@a x + @b = @c». Subtract @b on both sides: «@a x = @s». Divide by @a: «x = @r». @answer
  Which number «x» satisfies the equation ⟪@a x + @b = @c⟫ // We have @c - @b = @s and @s / @a = @r, hence «x = @r».
  A number is multiplied by @a and increased by @b; the result is @c. In symbols «@a x + @b = @c», so «x =
    \frac{@s}{@a} = @r».
quadratic
  Factor the quadratic ⟪x^2 - @s x + @t = 0⟫ // We look for two numbers with sum @s and product @t: they are @p
    and @q. So «(x - @p)(x - @q) = 0» and the roots are @p and @q.
  The equation «x^2 - @s x + @t = 0» has discriminant «@s^2 - 4 \times @t = @d». Its solutions are «x = @p» and
    «x = @q».
square_of_sum
  Expand the square: «(x + @a)^2 = x^2 + @b x + @c». The middle coefficient is twice @a, the constant is «@a^2 = @c».
  Completing the square for «x^2 + @b x» adds «@c», since half of @b is @a and @a * @a = @c.
system
  Given «x + y = @s» and «x - y = @d». Adding both equations yields «2 x = @t», so «x = @x» and «y = @y».
  Solve the system ⟪x + y = @s, \quad x - y = @d⟫ // From @s + @d = @t and @t / 2 = @x we get «x = @x»; then @s
    - @x = @y is the other variable.
title_geometry
  Triangles, circles and areas: sheet @2to90
  Geometry of plane figures, lesson @2to60
  Angles and lengths, worked examples
intro_geometry
  Draw the figure first. Label sides, angles and the radius, then choose the formula for the area or the perimeter.
  Plane geometry studies points, lines, triangles and circles. The examples below compute lengths, areas and angles.
idea_geometry
  The angles of a triangle add up to «180^\circ».
  In a right triangle the theorem of Pythagoras holds: «a^2 + b^2 = c^2», where «c» is the hypotenuse.
  Similar triangles have equal angles and proportional sides.
  The area of a circle of radius «r» is «\pi r^2», its circumference «2 \pi r».
  A tangent meets the radius at a right angle.
rectangle
  A rectangle with sides @a and @b has area «@a \times @b = @r» and perimeter «2 (@a + @b) = @p».
  Let a rectangle be @a cm long and @b cm wide. Area: @a * @b = @r. Perimeter: @a + @b = @s and 2 * @s = @p.
right_triangle
  The legs of a right triangle are @a and @b. Then «c^2 = @a^2 + @b^2 = @p + @q = @s», so the hypotenuse is «c =
    \sqrt{@s} = @r».
  Pythagoras with legs @a and @b: ⟪c = \sqrt{@p + @q} = \sqrt{@s} = @r⟫
angles
  Two angles of a triangle measure «@a^\circ» and «@b^\circ». The third angle is «180^\circ - @s^\circ = @r^\circ».
  If the base angles are @a and @b degrees, their sum is @a + @b = @s, and 180 - @s = @r degrees remain for the
    third angle.
circle
  A circle of radius @r has diameter @d, circumference «@d \pi» and area «\pi \times @r^2 = @s \pi».
  The disc with diameter @d: the radius is @d / 2 = @r, so the area equals «@s \pi».
title_probability
  Chance experiments with dice and urns, part @2to60
  Probability and counting, lesson @2to90
intro_probability
  The probability of an event is the number of favourable outcomes divided by the number of all outcomes, if all
    are equally likely.
  We count outcomes carefully and turn the counts into fractions. Random variables and expectation come next.
idea_probability
  Probabilities lie between zero and one, «0 \le P(A) \le 1».
  For independent events the probability of both is the product «P(A) \times P(B)».
  The complement has probability «1 - P(A)».
  The expected value weighs each outcome with its probability, «E = \sum x_i p_i».
  Conditional probability restricts the sample space: «P(A \mid B) = \frac{P(A B)}{P(B)}».
marbles
  An urn holds @a red and @b blue balls. One ball is drawn at random. «P(red) = \frac{@a}{@n} = \frac{@p}{@q}».
  Of @n equally likely outcomes @a are favourable, so the probability is ⟪\frac{@a}{@n} = \frac{@p}{@q}⟫
dice
  Two fair dice are rolled. The sum @r can come in @w ways out of 36, so its probability is «\frac{@w}{36} =
    \frac{@p}{@q}».
  How likely is a total of @r with two dice? There are @w favourable pairs; «P = \frac{@w}{36} = \frac{@p}{@q}».
choose
  From @n players we choose a pair. There are @n * @m = @s ordered pairs and @s / 2 = @r pairs without order.
  The number of combinations is ⟪\frac{@n \times @m}{2} = @r⟫ // because the order of the two does not count.
title_number_theory
  Divisors, primes and remainders: note @2to90
  Number theory for @learner, lesson @2to60
intro_number_theory
  Number theory studies whole numbers: divisors, primes, remainders and congruences.
  Every integer above one is a product of primes in exactly one way. The examples use division with remainder.
idea_number_theory
  If «n» divides «a» and «b», it divides «a + b» as well.
  Two integers are congruent modulo «n» when their difference is divisible by «n»: «a \equiv b».
  The Euclidean algorithm finds the greatest common divisor by repeated division.
  A prime number has exactly two divisors, one and itself.
  There are infinitely many primes, as Euclid proved by contradiction.
remainder
  Divide @a by @b: «@a = @q \times @b + @r», so the remainder is @r. @answer
  What is @a modulo @b? The largest multiple of @b below is @q * @b = @s, and @a - @s = @r. @answer
common_divisor
  The greatest common divisor of @a and @b is «\gcd(@a, @b) = @r», their least common multiple is @l.
  Both @a and @b are divisible by @r and by nothing larger, hence «\gcd(@a, @b) = @r».
powers
  The power «@p^@k» equals @r, and one factor more gives @r * @p = @s, which is «@p^@m».
  Since «@p^@k = @r», the number @r has only the prime factors of @p.
title_calculus
  Derivatives and integrals, exercise @2to90
  Calculus lesson @2to60: limits, slopes and areas
intro_calculus
  The derivative measures the slope of a function, the integral the area below its graph. Both are limits.
  Differentiate term by term with the power rule, integrate by reversing it. The examples show how.
idea_calculus
  The power rule says that the derivative of «x^n» is «n x^{n-1}».
  A function is continuous at «a» when «\lim_{x \to a} f(x) = f(a)».
  The fundamental theorem of calculus connects both: «\int_a^b f(x) dx = F(b) - F(a)».
  The chain rule differentiates the outer function and multiplies by the derivative of the inner one.
  Where the derivative is zero there may be a maximum or a minimum.
derivative
  Let «f(x) = @a x^@n». Then «f'(x) = @c x^{@m}», and the slope at «x = @x» is «@r».
  Differentiate ⟪f(x) = @a x^@n⟫ // The power rule gives @a * @n = @c as the new coefficient: «f'(x) = @c x^{@m}».
integral
  Compute the integral ⟪\int_0^@b @a x^@n dx = @k \times @b^@m = @r⟫ // with the antiderivative «@k x^@m».
  The area below «y = @a x^@n» from 0 to @b is @r, as «F(x) = @k x^@m» shows.
limit
  Find the limit ⟪\lim_{x \to @a} \frac{x^2 - @s}{x - @a} = @a + @a = @r⟫ // because the fraction equals «x +
    @a» for «x \ne @a».
  As «x \to @a», the quotient «\frac{x^2 - @s}{x - @a}» tends to @r.
"""
