"""The pages of the default toy web that are not mathematics, in English and Chinese, as grammar tables.

Prices, scores, dates, shell variables and physics formulas in them are deliberate hard negatives.
"""

ENGLISH = r"""
town = Marlow Bay, Eastfield, Old Harbour, Brookside, Kettleton, Fern Valley, Northgate, Silver Creek
people = residents, shopkeepers, commuters, visitors, volunteers, parents, farmers, council members
month = January, March, April, June, August, September, November
weekday = Monday, Tuesday, Thursday, Friday, Saturday, Sunday
name = Adler, Bishop, Conrad, Dunne, Ellery, Fontaine, Gibbs, Hollis, Ibarra, Jessop
adjective = quiet, surprising, modest, popular, narrow, lively, careful, rainy, famous, friendly
title_news
  @town debates the new @project
  @people of @town ask for a better @project
  Council approves @project after long meeting
project = bridge, market hall, bus line, swimming pool, cycle path, town archive, ferry pier, night market, playground
news
  The @project in @town will open in @month, the mayor said on @weekday.
  @people spoke for @2to6 hours about noise, parking and the @adjective streets around it.
  The budget rose from $@2to9.@1to9 million to $@11to30 million since @1995to2023.
  Councillor @name called the decision a @adjective step for the whole region.
  About @120to980 @people signed a letter against the @project.
  A spokesperson for the police reported @2to15 minor incidents during the weekend.
  The old building near the station had been empty since @1950to2010.
  Critics, among them @name, fear higher rents and more traffic in @town.
  Work begins next @weekday, and the road is closed until @month @2to28.
  The newspaper first wrote about the plan @2to12 years ago.
title_recipe
  @dish with @herb and @vegetable
  A @adjective @dish for @2to8 guests
  Grandmother's @dish, the easy way
dish = soup, stew, pie, risotto, salad, omelette, flatbread, curry, casserole, dumplings
herb = parsley, thyme, basil, coriander, rosemary, dill
vegetable = carrots, leeks, tomatoes, spinach, mushrooms, peppers, potatoes, pumpkin
recipe
  Chop the @vegetable and fry them in butter for @3to12 minutes.
  Heat the oven to @160to220 degrees and line a tin with paper.
  Stir in @50to250 g of flour, a pinch of salt and some @herb.
  Pour @100to900 ml of stock over the @vegetable and let it simmer gently.
  Serve the @dish warm with fresh @herb and a slice of bread.
  The dough must rest for about @10to90 minutes in a warm place.
  My neighbour adds @vegetable and a little lemon, which tastes @adjective.
  Season with pepper, nutmeg and more @herb than you would expect.
  Leftovers keep for @2to4 days in the fridge.
  - @50to500 g @vegetable // - @1to4 tablespoons olive oil // - a bunch of @herb // - @2to6 eggs
title_travel
  @2to9 days on the @coast coast
  A @adjective walk from @town to @town
  Where to stay in @town
coast = western, amber, northern, stony, southern, windy
travel
  We took the @5to11 o'clock ferry and reached @town before noon.
  The guesthouse at the harbour costs about €@35to180 a night, breakfast included.
  From the lighthouse you see the @adjective bay and, on clear days, the islands.
  Bring good shoes: the path climbs @150to900 metres through pine forest.
  The @weekday market sells cheese, honey and woven baskets.
  Our guide, old @name, told stories about smugglers and storms.
  Buses leave every @10to60 minutes from the square in front of the church.
  In @month the beaches are empty and the light is @adjective.
  The museum of fishing opens at @8to11 and is well worth an hour.
  We slept in a @adjective cabin beside the river and woke to the sound of birds.
title_sport
  @town beat @town @1to5-@0to4
  Coach @name on a @adjective season
  Report: @weekday match in @town
sport
  @town took the lead after @3to44 minutes through a header by @name.
  The second half ended @1to4-@0to3, and @200to9000 fans sang in the rain.
  Goalkeeper @name saved two penalties and was named player of the match.
  With @20to80 points from @11to38 games the club stands in place @1to18.
  The striker has signed a contract until @2025to2030, reportedly worth $@2to40 million.
  Coach @name changed the formation from 4-4-2 to 4-3-3 after the break.
  A @adjective tackle in the last minute led to a free kick and a red card.
  The return match is played on @weekday, @month @2to28.
  Injuries have troubled the team since @month, the physiotherapist said.
  She ran the final lap in @52to69.@10to99 seconds and won silver.
title_shop
  @product for the @adjective home
  Buy @product online, now @5to50% off
  @product: @adjective models compared
product = Garden chairs, Desk lamps, Hiking boots, Coffee mills, Wool blankets, Bicycle bells, Rain jackets, Kettles
shop
  - @product, model @name @11to99: $@5to90.@10to99, was $@91to180.@10to99
  - Set of @2to12, item no. @10000to99999, only $@9to80.@10to99
  Free delivery for orders above $@20to90; returns within @14to60 days.
  Customers rate these @product @3to4.@1to9 out of 5 stars (@12to900 reviews).
  Made of @adjective oak and steel, size @20to90 x @20to90 x @10to60 cm.
  Add to basket, choose your colour and pay by card or invoice.
  Order before @1to11 pm and your parcel leaves the warehouse the same day.
  "Arrived on @weekday, looks @adjective, would buy again", writes @name.
  Our @month sale saves you up to $@10to60 on selected @product.
title_shell
  How to @task in the shell
  Script of the week: @task
  $@variable explained, and how to @task
task = rename files, rotate logs, parse arguments, count lines, back up a folder, watch a process, clean the cache
variable = HOME, PATH, USER, EDITOR, LOGDIR, TMPDIR, BACKUP, COUNT
shell
  The variable $@variable must be exported before the script reads ${@variable}.
  > for f in $@variable/*.log; do // >   mv "$f" "$f.@1to9" // > done
  > if [ "$@variable" -gt @2to90 ]; then echo "$USER: limit"; fi
  > grep -c "error" /var/log/app@1to9.log | sort -n | head -@5to30
  Quote "$@variable", or spaces in file names will break the loop.
  The exit status $? is 0 on success and @1to127 otherwise.
  Put the function into ~/.profile and open a new terminal to @task.
  > def main(path, limit=@10to500): // >     return open(path).read()[:limit]
  Cron runs the job at @1to12:@10to59 every night and mails the output to $USER.
  On older systems install version @1to5.@1to20 of the package first.
  This is a @adjective way to @task without extra software.
title_weather
  Weather for @town, @weekday
  @adjective weekend ahead in @town
weather
  Temperatures reach @11to34 degrees near @town and fall to @1to10 at night.
  Winds from the west at @5to60 km/h bring showers in the afternoon.
  The chance of rain is @5to95% on @weekday and lower afterwards.
  Pressure rises to @1000to1035 hPa, so expect a @adjective morning.
  Sunrise is at @5to7:@10to59, sunset at @5to9:@10to59.
  Snow falls above @800to2200 metres; drivers need winter tyres.
  @month was wetter than usual, with @20to190 mm of rain in @town.
  Fog in the valleys clears by noon, then it stays @adjective and dry.
title_physics
  Laboratory report @2to40: @quantity
  @quantity: notes from the science club
quantity = force and motion, electric current, heat and temperature, sound waves, lenses and light, magnets
physics
  Newton's second law is written «F = m a»; we tested it with a cart and a string.
  The battery delivered @1to12 volts and the lamp drew @10to90 milliamperes, so Ohm's law «U = R I» was confirmed.
  Group @1to9 used the stopwatch while @name released the ball from the window.
  Wear goggles, tie back your hair and switch off the current before you touch the wires.
  The kinetic energy «E = \frac{1}{2} m v^2» heats the brake of the bicycle.
  The thermometer showed @20to95 degrees after @2to30 minutes over the flame.
  Our teacher, Ms @name, brought a prism and a @adjective old microscope.
  Copper, iron and aluminium wires were compared; the magnet attracts only iron.
  Please hand in the report by @weekday, with a drawing of the experiment.
title_chat
  @topic: what do you think?
  Question about @topic in @town
topic = bus passes, cat food, the school trip, second-hand bikes, the choir, old radios, house plants, the canteen menu
chat
  Has anybody in @town tried this before? I am new here and a little @adjective.
  Yes, @name posted about @topic in @month, try the search box.
  I paid $@5to90 last year, now they want $@91to150, which is too much for me.
  Thanks everyone, problem solved, the thread can be closed.
  We meet on @weekday at @1to9:@10to59 in front of the library, bring cake.
  My grandmother always said that @topic needs patience and a @adjective friend.
  The pictures from the school trip are online now, ask @name for the password.
  Does somebody want to share a ride to @town on @weekday?
  Page @2to40 of the handbook says something different, if I remember correctly.
  The rehearsal takes place in room @11to99, the concert is in @month.
"""

CHINESE = r"""
town = 青河镇, 云岭县, 东湾区, 石桥村, 白鹭市, 柳林镇, 南塘
name = 李建国, 王秀兰, 陈晓峰, 赵敏, 周立, 吴桂芳, 孙浩
month = 一月, 三月, 四月, 六月, 八月, 九月, 十一月
weekday = 周一, 周二, 周四, 周五, 周六, 周日
adjective = 热闹, 安静, 新鲜, 古老, 便宜, 舒适, 特别
project = 大桥, 菜市场, 公交线路, 游泳馆, 图书馆, 码头, 公园, 老街
title_news
  @town的@project何时完工
  @month起@town将改造@project
news
  记者@name从@town了解到，@project预计在@month对外开放。
  据介绍，这项工程总投资@2to90亿元，比去年增加了@3to30%。
  附近居民表示，@weekday早晚高峰的时候道路十分拥挤。
  有@100to900名志愿者参加了活动，现场气氛@adjective。
  @name说，希望有关部门早一点解决停车的问题。
  这座建筑建于@1920to1999年，已经多年无人使用。
  警方提醒市民，出门前请关好门窗，注意防火防盗。
  会议在@weekday下午举行，持续了@2to5个小时。
  @town的@project今后将成为市民休闲的好去处。
dish = 红烧肉, 鱼香茄子, 番茄鸡蛋面, 小笼包, 酸辣汤, 葱油饼, 清蒸鱼
vegetable = 土豆, 青椒, 白菜, 香菇, 豆腐, 萝卜, 茄子
title_recipe
  家常@dish的做法
  @adjective又好吃的@dish
recipe
  先把@vegetable洗净切块，用盐腌@5to40分钟。
  锅里放油，烧到七成热，下姜蒜爆香，再倒入@vegetable翻炒。
  加入@2to6勺生抽和一点白糖，小火炖@10to90分钟。
  出锅前撒上葱花，@dish就做好了，味道很@adjective。
  面粉@200to600克，温水@100to300毫升，揉成光滑的面团。
  奶奶做这道菜的时候总要放一点陈醋。
  - @vegetable@100to900克 // - 鸡蛋@2to6个 // - 料酒一勺 // - 八角@1to5个
  吃不完的@dish放进冰箱，第二天热一热还是很香。
title_travel
  @town@2to7日游记
  @adjective的@town，值得去吗
travel
  我们坐@5to11点的火车出发，中午到了@town。
  古镇门票@20to120元，学生半价，@weekday人比较少。
  客栈就在河边，一晚@90to480元，老板@name很热情。
  山路有点陡，爬了@2to5个小时才看到云海。
  当地的小吃很@adjective，推荐米线和烤鱼。
  @month的湖边开满了花，拍照特别好看。
  从车站坐@1to90路公交车，大约@10to60分钟到景区。
  晚上的老街灯火通明，有人在桥上唱歌。
product = 保温杯, 台灯, 运动鞋, 电饭煲, 书包, 雨伞, 蓝牙耳机
title_shop
  @product特价@9to300元包邮
  @adjective@product推荐
shop
  - @product，型号A@100to999，原价@200to900元，现价@50to199元
  满@99to399减@10to60，@weekday下单再送一个@product。
  这款@product颜色很多，质量@adjective，已售@100to9000件。
  七天无理由退货，客服在线时间早上@8to10点到晚上@9to11点。
  买家@name评论：物流很快，包装完好，给五星。
  优惠券编号@10000to99999，有效期到@month@2to28日。
  材质为不锈钢，容量@300to900毫升，重@200to800克。
title_chat
  @topic大家怎么看
  求助：关于@topic
topic = 搬家, 养猫, 换手机, 学吉他, 找工作, 考驾照, 种花
chat
  楼主你好，我去年也遇到过@topic的事情，慢慢来不要急。
  有没有住在@town的朋友，@weekday一起去喝茶？
  同意楼上，@name说得很有道理。
  我花了@100to900元，感觉不太值，你们别学我。
  谢谢大家，问题解决了，可以结帖了。
  外婆总说做人要有耐心，@topic也是一样的道理。
  昨天下了大雨，@town的路都淹了，出行注意安全。
  照片已经上传到相册，密码问@name要。
"""
