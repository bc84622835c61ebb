"""The English mathematics pages of the second toy web: other sentences and words than the default one."""

TEXT = r"""
actor = Aisha, Boris, Celeste, Dmitri, Esther, Farid, Greta, Hiro, Ingrid, Joel, Kavya, Lorenzo, Meera, Noel,
    Oscar, Petra
mate = Ravi, Selma, Tariq, Ulla, Vera, Wanda, Yusuf, Zora, Anton, Bella
goods = bricks, melons, envelopes, bottles, seeds, chairs, plates, lamps, ropes, jars of honey, bulbs, tiles,
    screws, scarves
extra = hats, drums, nails, pears, maps, bells
pack = sacks, cartons, drawers, cases, tins, buckets, wagons
spot = the harbour, the farm, the museum shop, the post office, the bus depot, the theatre, the greenhouse
soft = Carefully, Now, Next, As always, Quite simply, Without hurry, Once more
answer
  The answer is @r.
  The answer is @r.
  Result: @r.
  We end up with @r.
  It comes to @r.
remark
  @soft compare the outcome with a rough guess.
  Swap the numbers for your own and redo the exercise.
  A sketch of the situation settles most doubts.
  A calculator would only slow you down here.
  Say why each operation was chosen before you read on.
closing
  End of unit @2to80. Homework: repeat exercises @1to5 to @6to12 without the notes.
  Tutors may print unit @2to80 for use in class.
  @soft put the sheet aside and explain unit @2to80 to somebody else.
  Solutions to the @2to9 bonus questions follow in unit @11to90.
title_arithmetic
  Unit @2to99: figuring with @goods
  Tutorial @2to99, counting stock at @spot
  Numeracy trainer: @goods and @extra (@2to99)
intro_arithmetic
  Unit goals: choose the right operation, carry it out, state what was found.
  Every paragraph poses one exercise and works it out at once, so that you can check your own attempt.
  We keep stock at @spot and let the numbers grow and shrink. The exercises need nothing but the four basic operations.
idea_arithmetic
  Order of operations: brackets, then products and quotients, then sums and differences.
  Commutativity means «m \times n = n \times m»; the same is true for addition but not for subtraction.
  A difference grows when the first number grows and shrinks when the second one does.
  Dividing by a number and multiplying by it cancel each other: «(m \times n) \div n = m».
  Rounding to the nearest ten gives an estimate; the exact sum is then adjusted.
add
  A lorry brings @a @goods to @spot, a second lorry @b. Total delivered: @a + @b = @r. @answer
  @Actor weighs @a @goods, @Mate weighs @b. Combined they handled how many? @a + @b = @r. @answer
  Increase @a by @b. ⟪@a + @b = @r⟫ // @answer
  Exercise: @a + @b = ? // > @a + @b = @r // @answer @remark
subtract
  Stock at @spot was @a @goods; after a sale of @b the shelf shows @a - @b = @r. @answer
  Decrease @a by @b. ⟪@a - @b = @r⟫ // @answer
  @Actor must hand in @a @goods and has finished all but @b. Finished: @a - @b = @r. @answer
  Exercise: @a - @b = ? // > @a - @b = @r // @answer @remark
multiply
  @a @pack with @b @goods apiece give @a * @b = @r @goods. @answer
  @Actor cycles @b km daily; after @a days the meter shows @a * @b = @r km. @answer
  Form the product of @a and @b. ⟪@a \times @b = @r⟫ // @answer
  Exercise: @a * @b = ? // > @a * @b = @r // @answer @remark
divide
  @a @goods go evenly into @b @pack, which makes @a / @b = @r apiece. @answer
  @Actor pays back @a coins in @b equal rates. One rate is @a / @b = @r coins. @answer
  Form the quotient of @a and @b. ⟪@a \div @b = @r⟫ // @answer
  Exercise: @a / @b = ? // > @a / @b = @r // @answer @remark
compare
  @Actor owns @a @goods. @Mate owns @b more, that is @a + @b = @s. Joint stock: @a + @s = @r. @answer
  Level one takes @a minutes, level two @b minutes more. // > @a + @b = @s // > @a + @s = @r // @answer
multiply_add
  @a @pack of @b @goods and @c loose ones: @a * @b = @s, @s + @c = @r. @answer
  Evaluate @a * @b + @c. // > @a * @b = @s // > @s + @c = @r // @answer
  @Actor prints @b sheets per minute for @a minutes, then @c more by hand: «@a \times @b + @c = @r». @answer
multiply_subtract
  @a @pack of @b @goods arrive, @c pieces are sent back: @a * @b = @s, @s - @c = @r. @answer
  Evaluate @a * @b - @c. // > @a * @b = @s // > @s - @c = @r // @answer
two_products
  @Actor sells @a @goods for @b each and @c @extra for @d each. Income: @a * @b = @s, @c * @d = @t, @s + @t =
    @r. @answer
  Evaluate @a * @b + @c * @d. // > @a * @b = @s // > @c * @d = @t // > @s + @t = @r // @answer
add_divide
  @a @goods and @b @extra fill @c @pack evenly: @a + @b = @s, @s / @c = @r. @answer
  Evaluate (@a + @b) / @c. // > @a + @b = @s // > @s / @c = @r // @answer
add_subtract
  The register starts at @a, @b is booked in and @c booked out: @a + @b = @s, @s - @c = @r. @answer
  Evaluate @a + @b - @c. // > @a + @b = @s // > @s - @c = @r // @answer
tens
  Sum of @a and @b by place value: «@p + @u = @s», «@q + @v = @t», in all @s + @t = @r. @answer
chain
  Robot @2to40 holds @start on its display and is told to @phrases. Log: @equations // @answer
  Relay calculation from @start: @phrases. // @equations // @answer
do_plus
  raise it by @n
  bring in @n
do_minus
  lower it by @n
  drop @n
do_times
  scale it by @n
  repeat it @n times
do_over
  cut it to one part in @n
  divide it by @n
drill_intro
  Speed round with @count items:
  @soft go through these lines.
  Flash cards, @count today.
drill_add
  @a + @b = @r
  sum of @a and @b: @r
drill_subtract
  @a - @b = @r
  @a less @b: @r
drill_multiply
  @a * @b = @r
  product of @a and @b: @r
drill_divide
  @a / @b = @r
  quotient of @a and @b: @r
table_intro
  # Row of @n // Ten products with the factor @n:
title_algebra
  Unit @2to90, algebra: finding unknown quantities
  Tutorial @2to90: polynomials and roots
intro_algebra
  Unknown quantities get letters; equations say what is known about them. Rearranging the equation reveals the unknown.
  We treat linear and quadratic equations and polynomials in this unit.
idea_algebra
  Whatever is done to the left side of an equation has to be done to the right side.
  The roots of a product are the roots of its factors.
  A quadratic equation has the solutions «\frac{-b \pm \sqrt{b^2 - 4 a c}}{2 a}».
  Coefficients of equal powers may be compared when two polynomials agree everywhere.
linear
  From «@a x + @b = @c» follows «@a x = @s», thus «x = @r». @remark
  Find the unknown in ⟪@a x + @b = @c⟫ // @soft isolate it: @c - @b = @s and @s / @a = @r.
quadratic
  The polynomial «x^2 - @s x + @t» vanishes at @p and @q since it equals «(x - @p)(x - @q)». @remark
  Roots of ⟪x^2 - @s x + @t = 0⟫ // By Vieta their sum is @s and their product @t, which leaves @p and @q.
square_of_sum
  A perfect square: «x^2 + @b x + @c = (x + @a)^2». @remark
system
  Two unknowns: «x + y = @s», «x - y = @d». The sum of the lines is «2 x = @t», whence «x = @x» and «y = @y».
title_geometry
  Unit @2to90, figures: lengths, angles, areas
intro_geometry
  Points, lines, triangles, rectangles and circles are measured here. Sketch the figure and write the known
    lengths beside its sides.
  Area, perimeter and angle problems with complete solutions make up this unit.
idea_geometry
  A triangle's three angles total «180^\circ».
  The squares over the two legs together equal the square over the hypotenuse, «a^2 + b^2 = c^2».
  Doubling the radius makes the area of a circle four times as large.
  Congruent triangles have equal sides and equal angles.
rectangle
  Rectangle, sides @a and @b: perimeter «2 (@a + @b) = @p», area @a * @b = @r. @remark
  @Actor fences a rectangular field of @a by @b metres and needs 2 * @s = @p metres of fence.
right_triangle
  Legs @a and @b, hypotenuse wanted: ⟪\sqrt{@a^2 + @b^2} = \sqrt{@s} = @r⟫
  A right triangle has the legs @a and @b. Their squares are @p and @q; the root of @s is @r. @remark
angles
  Angles «\alpha = @a^\circ» and «\beta = @b^\circ» leave «180^\circ - @s^\circ = @r^\circ» for the third. @remark
circle
  Radius @r means area «@s \pi» and circumference «@d \pi». @remark
title_probability
  Unit @2to90, chance and counting
intro_probability
  Probability compares favourable outcomes with all possible outcomes. We list the outcomes, count them and
    reduce the fraction.
idea_probability
  Independent events multiply: «P(A B) = P(A) \times P(B)».
  An event and its complement have probabilities that add up to one.
  The expectation of a random variable is its long-run average.
marbles
  @a green and @b white counters lie in a bag; a green one appears with probability «\frac{@a}{@n} =
    \frac{@p}{@q}». @remark
dice
  Sum @r with two dice: @w of 36 outcomes, hence «P = \frac{@p}{@q}». @remark
choose
  @n teams play each other once: «\frac{@n \times @m}{2} = @r» games. @remark
  Subsets with two of @n elements: @n * @m = @s, @s / 2 = @r.
title_number_theory
  Unit @2to90, integers and divisibility
intro_number_theory
  Divisors, multiples, primes and remainders of integers are the subject here.
idea_number_theory
  Congruent numbers leave the same remainder: «a \equiv b».
  Euclid's algorithm computes «\gcd(a, b)» by repeated remainders.
  A composite number has a prime divisor not above its square root.
remainder
  @a modulo @b is @r, because «@a = @q \times @b + @r». @remark
common_divisor
  «\gcd(@a, @b) = @r» and the least common multiple is @l. @remark
  The integers @a and @b share the divisor @r, and no larger one.
powers
  The power «@p^@k» has the value @r; multiplied by @p it becomes @s. @remark
title_calculus
  Unit @2to90, slopes and areas under curves
intro_calculus
  Derivatives describe rates of change, integrals accumulate them. Both rest on limits of functions.
idea_calculus
  Differentiation is linear: constants factor out and sums are taken term by term.
  An antiderivative of «x^n» is «\frac{1}{n + 1} x^{n+1}».
  A differentiable function is continuous, but not the other way round.
derivative
  The function «@a x^@n» has derivative «@c x^{@m}»; at «x = @x» it takes the value @r. @remark
integral
  Definite integral: ⟪\int_0^@b @a x^@n dx = @r⟫ // with antiderivative «@k x^@m». @remark
limit
  The limit of «\frac{x^2 - @s}{x - @a}» for «x \to @a» equals @r. @remark
"""
