"""The Chinese mathematics pages of the default toy web, as grammar tables (see grammar.py)."""

TEXT = r"""
who = 小明, 小红, 小刚, 小芳, 小华, 丽丽, 乐乐, 东东
friend = 小军, 小燕, 强强, 妞妞, 阿亮, 圆圆
things = 苹果, 铅笔, 练习本, 糖果, 气球, 鸡蛋, 邮票, 橘子
other = 梨, 橡皮, 贴纸, 桃子, 尺子
box = 盒, 箱, 袋, 篮, 筐
place = 教室, 书店, 水果店, 操场, 图书角, 文具店
answer
  答案是@r。
  答：@r。
  所以结果等于@r。
  答案是@r。
why
  做完以后要验算，看看结果是否合理。
  先读题，找出已知条件和问题，再列式计算。
  画一条线段图可以帮助我们理解数量关系。
  列算式的时候注意运算顺序，先乘除后加减。
closing
  同学们，请把上面的例题再做一遍，然后完成练习@2to40。
  下一课我们继续学习@topic_word，请准备好练习本。
  把做错的题目抄到错题本上，过几天再做一次。
  课后思考：如果把题目里的数换一换，结果会怎样？
topic_word = 计算题, 应用题, 解题方法, 数学思维
title_arithmetic
  小学数学应用题第@2to99讲
  四则运算练习@2to99：@things问题
  口算与列式计算（@2to60）
intro_arithmetic
  本课练习加法、减法、乘法和除法，每道例题都写出算式和答案。
  解答应用题的关键是弄清数量关系，下面的例题一步一步讲解。
  计算题要细心，数字不大，也要写出完整的算式。
idea_arithmetic
  加法和减法互为逆运算，乘法和除法互为逆运算。
  乘法是求几个相同加数的和的简便运算，例如 «a \times 3 = a + a + a»。
  两个加数交换位置，和不变：«a + b = b + a»。
  没有括号的算式里，先算乘除，后算加减。
  平均分用除法计算，总数除以份数等于每份数。
add
  @Who有@a个@Things，@Friend又送来@b个，一共有多少个@Things？列式：@a + @b = @r。@answer
  @place里原来有@a个@things，又运来@b个。«@a + @b = @r»，现在有@r个。
  求@a与@b的和。@a + @b = @r。@answer
subtract
  @Who有@a个@Things，用去@b个，还剩多少个？@a - @b = @r。@answer
  比@a少@b的数是多少？列式计算：«@a - @b = @r»。@answer
  @place有@a个@things，卖出@b个，剩下 @a - @b = @r 个。
multiply
  每@Box有@b个@things，@a@Box一共有多少个？@a * @b = @r。@answer
  一个@things@b元，买@a个要多少元？«@a \times @b = @r»，要@r元。
  求@a的@b倍是多少。@a * @b = @r。@answer
divide
  把@a个@things平均分给@b个小朋友，每人分到几个？@a / @b = @r。@answer
  @a里面有几个@b？«@a \div @b = @r»，有@r个。@why
  @Who把@a个@things装进@b个@box子里，每个装 @a / @b = @r 个。
compare
  第一天卖出@a个@things，第二天比第一天多卖@b个，两天共卖多少？第二天 @a + @b = @s，两天 @a + @s = @r。@answer
  @Who有@a个@things，@Friend比@Who多@b个，两人共有多少个？@a + @b = @s，@a + @s = @r。@answer
multiply_add
  @Who每天看@a页书，看了@b天，又在周末看了@c页，共看多少页？@a * @b = @s，@s + @c = @r。@answer
  @a@Box@things每@Box@b个，另外还有@c个，一共多少个？@a * @b = @s，@s + @c = @r。@answer
  计算 «@a \times @b + @c»：先算乘法得@s，再算加法得@r。@answer
multiply_subtract
  学校买来@a@Box@things，每@Box@b个，分给同学@c个，还剩几个？@a * @b = @s，@s - @c = @r。@answer
  买@a个@things，每个@b元，有一张@c元的优惠券，应付多少元？@a * @b = @s，@s - @c = @r。@answer
  计算 «@a \times @b - @c»：先算乘法得@s，再算减法得@r。@answer
two_products
  计算 «@a \times @b + @c \times @d»：两个积是@s和@t，和是@r。@answer
  @a个@things每个@b元，@c个@other每个@d元。@a * @b = @s，@c * @d = @t，@s + @t = @r。@answer
add_divide
  @Who有@a个@things，又买来@b个，平均放进@c个盒子。@a + @b = @s，@s / @c = @r。@answer
  计算 «(@a + @b) \div @c»：先算括号里的和@s，再除以@c得@r。
add_subtract
  车上有@a人，上来@b人，下去@c人，现在有多少人？@a + @b = @s，@s - @c = @r。@answer
  计算 @a + @b - @c，从左往右算：@a + @b = @s，@s - @c = @r。@answer
tens
  把@a和@b拆成整十数和个位数：«@p + @u = @s»，«@q + @v = @t»，所以 @a + @b = @r。@why
  @a + @b 可以这样口算：整十数相加 @p + @u = @s，个位相加 @q + @v = @t，合起来 @s + @t = @r。
chain
  @Who想了一个数@start，@phrases。// @equations // @answer
  连续计算：@start，@phrases。@equations 最后得到@r。@answer
  从@start开始，@phrases，结果是多少？@equations 答案是@r。
do_plus = 加上@n, 再加@n
do_minus = 减去@n, 再减@n
do_times = 乘@n, 扩大到@n倍
do_over = 除以@n, 平均分成@n份取一份
drill_intro = 口算练习。, 直接写出得数：, 看谁算得又对又快。
drill_add
  @a + @b = @r
drill_subtract
  @a - @b = @r
drill_multiply
  @a * @b = @r
drill_divide
  @a / @b = @r
table_intro
  # @n的乘法口诀 // 请大家背诵@n的乘法表：
title_algebra
  解方程专题@2to60
  初中代数：未知数与方程（@2to90）
intro_algebra
  含有未知数的等式叫做方程，等式两边同时加减同一个数，等式仍然成立。
  代数用字母表示数，求出未知数的值叫做解方程。
idea_algebra
  一元二次方程的判别式是 «b^2 - 4 a c»，它决定实数根的个数。
  因式分解把多项式化成几个整式的积，例如 «x^2 + a x = x (x + a)»。
  解出未知数以后要代入原方程检验。
  二元一次方程组通常用代入法或加减消元法求解。
linear
  @Who解方程 «@a x + @b = @c»：@c - @b = @s，@s / @a = @r，所以 «x = @r»。@why
  解方程 «@a x + @b = @c»。移项得 «@a x = @s»，两边同时除以@a，得 «x = @r»。
  一个数的@a倍加上@b等于@c，求这个数。设这个数为 «x»，则 ⟪@a x + @b = @c⟫ // 解得 «x = @r»。@answer
quadratic
  解一元二次方程 «x^2 - @s x + @t = 0»。因式分解得 «(x - @p)(x - @q) = 0»，方程的根是@p和@q。
  方程 ⟪x^2 - @s x + @t = 0⟫ // 的判别式等于@d，两个根为 «x = @p» 和 «x = @q»。
square_of_sum
  展开 «(x + @a)^2»，得 «x^2 + @b x + @c»。@why
  完全平方公式：«(x + @a)^2 = x^2 + @b x + @c»，其中一次项系数是@a的两倍。
system
  两数之和是@s，差是@d，求这两个数。@s + @d = @t，@t / 2 = @x，较小的数是@y。@why
  解方程组 «x + y = @s»，«x - y = @d»。两式相加得 «2 x = @t»，所以 «x = @x»，«y = @y»。
title_geometry
  平面几何：三角形与圆（@2to90）
  面积和周长练习@2to60
intro_geometry
  先画出图形，标出边长、角度和半径，再选择面积或周长的公式。
  几何研究点、线、三角形和圆，下面的例题计算长度、面积和角度。
idea_geometry
  三角形的内角和等于 «180^\circ»。
  直角三角形满足勾股定理 «a^2 + b^2 = c^2»，«c» 是斜边。
  半径为 «r» 的圆，面积是 «\pi r^2»，周长是 «2 \pi r»。
  相似三角形的对应角相等，对应边成比例。
rectangle
  @Who量得一块菜地长@a米、宽@b米，周长是 2 * @s = @p 米，面积是 @a * @b = @r 平方米。
  求长@a宽@b的长方形面积：⟪S = @a \times @b = @r⟫ // 周长是@p。@why
  长方形的长是@a厘米，宽是@b厘米，面积 «@a \times @b = @r»，周长 «2 (@a + @b) = @p»。
right_triangle
  一架梯子靠在墙上，底端离墙@a，顶端高@b，梯子长 «\sqrt{@s} = @r»。@answer
  直角三角形的两条直角边是@a和@b，斜边 «c = \sqrt{@p + @q} = \sqrt{@s} = @r»。
  由勾股定理 ⟪@a^2 + @b^2 = @p + @q = @s⟫ // 所以斜边长@r。
angles
  在三角形中，«\alpha = @a^\circ»，«\beta = @b^\circ»，先求和 @a + @b = @s，再用 180 - @s = @r 求出第三个角。
  三角形的两个内角是 «@a^\circ» 和 «@b^\circ»，第三个角是 «180^\circ - @s^\circ = @r^\circ»。
circle
  一个圆形花坛的直径是@d米，半径就是@r米，占地 «@s \pi» 平方米。@why
  圆的半径是@r，直径是@d，面积 «\pi \times @r^2 = @s \pi»，周长 «@d \pi»。
title_probability
  概率初步：摸球与掷骰子（@2to60）
intro_probability
  等可能事件的概率等于所求结果的个数除以全部结果的个数。
  概率用分数表示事件发生的可能性，先数清楚结果，再计算。
idea_probability
  概率总在零和一之间：«0 \le P(A) \le 1»。
  对立事件的概率是 «1 - P(A)»。
  相互独立的事件同时发生的概率等于概率的乘积 «P(A) \times P(B)»。
marbles
  盒子里@a个黑球，@b个白球，共@n个球，黑球的概率 ⟪P = \frac{@a}{@n} = \frac{@p}{@q}⟫ // @why
  抽奖箱有@n张奖券，其中@a张有奖，@Who抽一张中奖的可能性是 «\frac{@p}{@q}»。
  袋中有@a个红球和@b个白球，任意摸出一个，摸到红球的概率是 «\frac{@a}{@n} = \frac{@p}{@q}»。
dice
  两枚骰子共有36种等可能结果，其中和等于@r的有@w种，所以 «P = \frac{@p}{@q}»。@why
  掷两枚骰子，点数之和为@r的情况有@w种，概率是 «\frac{@w}{36} = \frac{@p}{@q}»。
choose
  @n支球队单循环比赛，共 «\frac{@n \times @m}{2} = @r» 场。@answer
  从@n个点中任选两点连线段，可连 @s / 2 = @r 条。@why
  从@n名同学中选两名，有序的选法 «@n \times @m = @s» 种，不计顺序有@r种。
title_number_theory
  整数、因数与余数（@2to90）
intro_number_theory
  数论研究整数的性质：因数、倍数、质数和余数。
  每个大于一的整数都可以唯一地分解成质因数的乘积。
idea_number_theory
  质数只有一和它本身两个因数。
  辗转相除法可以求出两个数的最大公因数。
  两个整数的差能被 «n» 整除，就说它们模 «n» 同余：«a \equiv b»。
remainder
  @Who把@a个@things每@b个装一@box，装满@q@box，余下@r个。@answer
  求@a除以@b的余数：最大的倍数是 @q * @b = @s，@a - @s = @r。
  @a除以@b，商是@q，余数是@r：«@a = @q \times @b + @r»。
common_divisor
  用辗转相除法求@a与@b的最大公因数，得 «\gcd(@a, @b) = @r»。@why
  @Who要把@a和@b同时分成相等的小组，每组最多@r个。
  @a和@b的最大公因数是@r，最小公倍数是@l：«\gcd(@a, @b) = @r»。
powers
  @k个@p相乘等于@r，即 «@p^@k = @r»，它的质因数只有@p的质因数。@why
  «@p^@k = @r»，再乘一个@p得 «@p^@m = @s»。
title_calculus
  微积分入门：导数与积分（@2to60）
intro_calculus
  导数表示函数图像的斜率，积分表示图像下方的面积，两者都用极限定义。
idea_calculus
  幂函数 «x^n» 的导数是 «n x^{n-1}»。
  导数为零的点可能是极大值点或极小值点。
  牛顿莱布尼茨公式：«\int_a^b f(x) dx = F(b) - F(a)»。
derivative
  求导：⟪f(x) = @a x^@n⟫ // 由幂函数求导法则 @a * @n = @c，所以 «f'(x) = @c x^{@m}»。
  曲线 «y = @a x^@n» 在 «x = @x» 处切线的斜率等于@r。@why
  函数 «f(x) = @a x^@n» 的导数是 «f'(x) = @c x^{@m}»，在 «x = @x» 处的斜率是@r。
integral
  曲线 «y = @a x^@n» 与横轴从0到@b围成的面积是@r，由 «F(x) = @k x^@m» 算出。@why
  计算定积分 ⟪\int_0^@b @a x^@n dx = @k \times @b^@m = @r⟫ // 原函数是 «@k x^@m»。
limit
  当 «x \to @a» 时，分式 «\frac{x^2 - @s}{x - @a}» 趋于@r。@why
  用因式分解求极限：«x^2 - @s = (x - @a)(x + @a)»，约分以后代入得@r。
  求极限 «\lim_{x \to @a} \frac{x^2 - @s}{x - @a} = @r»，因为分式等于 «x + @a»。
"""
