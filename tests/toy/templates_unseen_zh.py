"""The Chinese mathematics pages of the second toy web."""

TEXT = r"""
actor = 张老师, 阿强, 思思, 浩然, 雨桐, 子轩, 欣怡
mate = 佳佳, 文文, 大伟, 晨晨, 可可
goods = 西瓜, 灯泡, 积木, 毛巾, 花瓶, 钥匙, 地图, 玻璃杯
extra = 帽子, 围巾, 铃铛
pack = 车, 柜, 桶, 捆
spot = 仓库, 农场, 超市, 工厂, 车站
answer
  答案是@r。
  得数为@r。
  由此得到@r。
remark
  请自己再验算一遍。
  想一想，还有没有别的解法？
  注意书写格式要规范。
  可以先估算，再精确计算。
closing
  本单元到此结束，请完成习题@2to90。
  复习提示：把单元@2to90的错题整理出来。
title_arithmetic
  单元@2to99：@goods的数量计算
  数学训练营第@2to99期
intro_arithmetic
  这一单元训练加减乘除，每个问题后面都有算式。
  题目不难，关键是选对运算，下面逐题分析。
idea_arithmetic
  运算顺序：先括号，再乘除，最后加减。
  乘法交换律写作 «m \times n = n \times m»。
  除以一个数再乘这个数，结果不变：«(m \div n) \times n = m»。
add
  @spot上午进货@a个@goods，下午进货@b个，全天进货 @a + @b = @r 个。@answer
  比@a大@b的数：⟪@a + @b = @r⟫ // @answer@remark
subtract
  @spot存有@a个@goods，运走@b个后存 @a - @b = @r 个。@answer
  @a与@b的差：⟪@a - @b = @r⟫ // @answer@remark
multiply
  @a@Pack@goods，每@Pack@b个，合计 @a * @b = @r 个。@answer
  @a与@b的积：⟪@a \times @b = @r⟫ // @answer@remark
divide
  @a个@goods平均装@b@pack，每份 @a / @b = @r 个。@answer
  @a与@b的商：⟪@a \div @b = @r⟫ // @answer@remark
compare
  @Actor做了@a道题，@Mate比@Actor多做@b道，即 @a + @b = @s 道，合计 @a + @s = @r 道。@answer
multiply_add
  @a@Pack@goods每@Pack@b个，再加@c个：@a * @b = @s，@s + @c = @r。@answer
  求值 @a * @b + @c。@a * @b = @s，@s + @c = @r。@remark
multiply_subtract
  求值 @a * @b - @c。@a * @b = @s，@s - @c = @r。@answer@remark
two_products
  @Actor卖出@a个@goods（单价@b）和@c个@extra（单价@d）：@a * @b = @s，@c * @d = @t，@s + @t = @r。@answer
add_divide
  求值 (@a + @b) / @c。@a + @b = @s，@s / @c = @r。@answer@remark
add_subtract
  @spot有@a人，先来@b人，后走@c人：@a + @b = @s，@s - @c = @r。@answer
tens
  按数位相加：@p + @u = @s，@q + @v = @t，@s + @t = @r，因此 @a + @b = @r。@remark
chain
  机器人屏幕显示@start，指令是@phrases。@equations @answer
do_plus = 增加@n, 补上@n
do_minus = 减少@n, 扣掉@n
do_times = 变为@n倍, 乘以@n
do_over = 除以@n, 缩小到@n分之一
drill_intro = 快速问答。, 限时训练：
drill_add
  @a + @b = @r
drill_subtract
  @a - @b = @r
drill_multiply
  @a * @b = @r
drill_divide
  @a / @b = @r
table_intro
  # 因数@n的乘积表 // 十个乘积如下：
title_algebra
  单元@2to90：方程与多项式
intro_algebra
  用字母代替未知的数，根据条件列出方程，再变形求解。
idea_algebra
  求根公式：«x = \frac{-b \pm \sqrt{b^2 - 4 a c}}{2 a}»。
  方程两边乘同一个不为零的数，解不变。
  多项式的根就是使它等于零的数。
linear
  由 «@a x + @b = @c» 得 «@a x = @s»，于是未知数 «x = @r»。@remark
  @Actor列出方程 ⟪@a x + @b = @c⟫ // 并算出 @c - @b = @s，@s / @a = @r。
quadratic
  多项式 «x^2 - @s x + @t» 分解为 «(x - @p)(x - @q)»，根为@p与@q。@remark
square_of_sum
  配方：«x^2 + @b x + @c = (x + @a)^2»。@remark
system
  联立方程 «x + y = @s» 与 «x - y = @d»，相加得 «2 x = @t»，故 «x = @x»，«y = @y»。@remark
title_geometry
  单元@2to90：图形的度量
intro_geometry
  本单元计算三角形、长方形和圆的长度、角度与面积。
idea_geometry
  三角形三个内角之和为 «180^\circ»。
  勾股定理：两条直角边的平方和等于斜边的平方。
  圆的面积与半径的平方成正比。
rectangle
  边长@a与@b的长方形：周长 «2 (@a + @b) = @p»，面积 @a * @b = @r。@remark
right_triangle
  直角边@a和@b，斜边为 ⟪\sqrt{@a^2 + @b^2} = \sqrt{@s} = @r⟫ // @remark
angles
  已知 «\alpha = @a^\circ»，«\beta = @b^\circ»，其余一角为 «@r^\circ»。@remark
circle
  半径@r的圆，面积 «@s \pi»，周长 «@d \pi»。@remark
title_probability
  单元@2to90：随机事件
intro_probability
  概率是有利结果数与全部结果数之比，先列举再计数。
idea_probability
  独立事件的概率相乘，互斥事件的概率相加。
  事件与它的对立事件概率之和为一。
marbles
  口袋里绿球@a个、白球@b个，取到绿球的概率为 «\frac{@a}{@n} = \frac{@p}{@q}»。@remark
dice
  两枚骰子点数和@r：36种结果中有@w种，概率 «\frac{@p}{@q}»。@remark
choose
  @n个元素的二元子集有 @s / 2 = @r 个。@remark
title_number_theory
  单元@2to90：整除与同余
intro_number_theory
  整数的因数、倍数、质数和余数是本单元的内容。
idea_number_theory
  合数必有不超过其平方根的质因数。
  同余的两个数除以模，余数相同：«a \equiv b»。
remainder
  «@a = @q \times @b + @r»，所以@a除以@b的余数是@r。@remark
common_divisor
  整数@a与@b的最大公因数为@r，最小公倍数为@l。@remark
powers
  幂 «@p^@k» 的值为@r，再乘@p等于@s。@remark
title_calculus
  单元@2to90：变化率与面积
intro_calculus
  导数描述变化率，积分是变化的累积，两者都建立在函数极限之上。
idea_calculus
  求导是线性运算，常数可以提到外面。
  可导函数一定连续，反之不然。
derivative
  函数 «@a x^@n» 的导数为 «@c x^{@m}»，当 «x = @x» 时取值@r。@remark
integral
  定积分 ⟪\int_0^@b @a x^@n dx = @r⟫ // 其中原函数为 «@k x^@m»。@remark
limit
  当 «x \to @a» 时，«\frac{x^2 - @s}{x - @a}» 的极限等于@r。@remark
"""
