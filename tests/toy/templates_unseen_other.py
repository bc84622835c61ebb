"""The pages of the second toy web that are not mathematics, as grammar tables."""

ENGLISH = r"""
person = Abbott, Brandt, Castellan, Dupree, Egede, Farrow, Grieg, Haldane, Ibsen, Jarvis
city = Tallow Quay, Windermoor, Port Sable, Greyhaven, Upper Linden, Cobblestead
mood = tender, gloomy, brilliant, uneven, charming, noisy, patient, elegant, dusty, bold
season = spring, summer, autumn, winter
plant = dahlias, tulips, roses, ferns, beans, lavender, apple trees, strawberries, hedges
title_garden
  Growing @plant in @season
  The @mood border: @plant and @plant
garden
  Plant the @plant about @10to90 cm apart once the soil has warmed up.
  Slugs ate half of the @plant last @season, so this year there are beer traps.
  Water every @2to6 days, early, and never over the leaves.
  Compost from the heap behind the shed makes the ground dark and loose.
  The pruning shears were sharpened in @season and cut like new.
  My neighbour @person swears by nettle tea against aphids.
  A packet with @20to200 seeds costs around £@1to6.@10to99 at the nursery in @city.
  In a @mood summer the @plant flower for @3to12 weeks.
  Mulch keeps the roots cool and saves a lot of weeding.
  Robins and hedgehogs are welcome guests between the @plant.
title_cinema
  Review: The @mood Lighthouse
  @person and the @mood art of silence
  @season festival in @city
cinema
  @person plays a @mood widow who returns to @city after @5to40 years.
  The camera lingers on faces, and the score by @person is @mood.
  At @85to190 minutes the film feels long, above all in the second half.
  It opened in @1955to2023 and was forgotten until a restored print turned up.
  The dialogue is @mood, the costumes are worth the ticket alone.
  The festival in @city awarded it @1to5 prizes.
  One leaves the theatre in a @mood mood, humming the last song.
  Compared with the novel, the ending is less cruel.
  Supporting actors, above all @person, steal every scene.
  Rating: @1to5 of 5 stars, suitable from age @6to16.
title_motoring
  Road test: the @mood hatchback
  Used vans between £@2to9,000 and £@10to30,000
motoring
  The engine delivers @60to300 hp and reaches @100to250 km/h.
  Fuel consumption was @4to11.@0to9 litres per 100 km on the way to @city.
  The price starts at £@11to60,@100to999 and climbs quickly with extras.
  Brakes and tyres were replaced after @20to90,000 miles.
  The boot swallows @200to600 litres, enough for a dog and two suitcases.
  Mechanic @person found rust below the doors and a @mood gearbox.
  The seats are @mood on long trips, the radio less so.
  Insurance group @5to40, road tax £@20to300 a year.
  In @season the battery of the @1995to2022 model suffers.
title_concert
  @person quartet live in @city
  Album of the week by @person
concert
  The @mood opening piece set the tone for an evening in @city.
  Drummer @person broke a stick in bar @8to64 and laughed about it.
  The album has @7to16 songs and was recorded in a barn within @3to30 days.
  Tickets for the tour in @season cost from £@15to95.
  Violins and a @mood oboe answer each other in the slow movement.
  An encore, then another one; the hall stood and clapped for @2to9 minutes.
  The choir has rehearsed since @season under its @mood conductor.
  On vinyl the bass sounds warm and the voices @mood.
title_server
  Configuring @daemon on a small server
  @daemon does not start: what to check
daemon = nginx, postfix, sshd, rsync, docker, redis, systemd
server
  Set listen @1024to9999 in the file below /etc/@daemon and reload the service.
  > export $PORT=@1024to9999 && echo "$HOST:$PORT" >> ~/.env
  > sudo systemctl restart @daemon // > journalctl -u @daemon | tail -n @5to90
  The log showed error @100to599 at @0to23:@10to59 and then nothing.
  > location /api { proxy_pass http://127.0.0.1:@1024to9999; }
  Memory use fell from @300to900 MB to @30to290 MB after the upgrade.
  Admin @person suggests a @mood backup plan and @2to9 snapshots.
  > while read -r line; do echo "${line%%:*}" $COUNT; done < users.txt
  Permissions of the key must be 600, its owner $USER.
  The certificate expires after @30to90 days, so renew it by a timer.
title_auction
  Lots @10to99 to @100to999: clocks, prints, silver
  @mood finds at the @city auction
auction
  - Lot @10to999: @mood oak clock, about @1820to1930, estimate £@80to900
  - Lot @10to999: print by @person, signed, £@20to400
  Bids are accepted until @1to9 pm; the buyer pays a premium of @10to25%.
  A @mood silver teapot fetched £@300to999, far above the estimate.
  Collector @person drove from @city to see the porcelain.
  Shipping within the country is £@5to40 and takes @2to9 days.
  The catalogue describes the frame as @mood with slight scratches.
  Viewing is possible in @season by appointment.
title_chemistry
  Experiment of @season: @substance
  @substance under the microscope
substance = vinegar and soda, copper salts, sugar crystals, rust, soap bubbles, indicator paper
chemistry
  The reaction «2 H_2 + O_2 \to 2 H_2 O» releases heat and a small bang.
  Dissolve @5to60 g of salt in @100to500 ml of warm water and stir.
  The indicator turned red, so the liquid is an acid with pH @1to6.
  Lab partner @person wore gloves while the flask was heated.
  After @2to20 minutes blue crystals grew on the @mood thread.
  The density is «\rho = \frac{m}{V}», as the table in the appendix says.
  Ventilate the room and collect the residue in the labelled can.
  Copper sulphate, zinc and magnesium ribbon came from the cupboard in @city.
"""

CHINESE = r"""
person = 林徽, 郑和平, 黄小雅, 徐志明, 何秀英, 马超
city = 临江市, 梧桐县, 北岭, 湖州湾, 松原镇
mood = 温柔, 精彩, 平淡, 优雅, 热烈, 朴素
season = 春天, 夏天, 秋天, 冬天
plant = 月季, 兰花, 绿萝, 多肉, 茉莉, 菊花
title_garden
  @season怎样养@plant
garden
  @season换盆最好，新土里拌一点沙子。
  @person把@plant种在院子东边，长得比去年高。
  @plant喜欢阳光，每隔@2to9天浇一次水就够了。
  花盆底下要留孔，不然根容易烂。
  我家阳台上的@plant已经开了@2to30朵，香味很@mood。
  邻居@person送来一包花肥，说@season施最好。
  叶子发黄可能是缺铁，也可能是晒得太厉害。
  花市上一盆@plant卖@8to90元，老板还送小铲子。
  剪枝的时候要斜着剪，伤口干了再放回室内。
title_cinema
  影评：@mood的归途
  @person新片在@city上映
cinema
  配角@person的表演@mood，抢了不少镜头。
  首映礼上@person回忆了在@city拍戏的@30to120天。
  服装和布景都很@mood，看得出下了功夫。
  导演@person用@mood的镜头讲述了一个小镇的故事。
  影片片长@85to180分钟，后半段节奏有些慢。
  女主角从@city回来，发现老房子已经不在了。
  配乐很@mood，片尾曲让人久久不愿离开。
  票房首周达到@1to9.@1to9亿，评分@5to9.@0to9。
  和原著小说相比，结局改得比较@mood。
title_motoring
  试驾报告：@mood的小型车
motoring
  @person说@city的停车位一小时@5to20元，比油钱还贵。
  新款车型@season上市，预计有@2to6种颜色可选。
  隔音做得很@mood，听广播不用开大声。
  保险每年@2000to7000元，买了@2to6年没有出过险。
  这辆车百公里油耗@4to11升，从@city开到@city只加了一次油。
  售价@8to40万元起，首付@2to7万元，三年免息。
  后备箱可以放下@2to5个行李箱，空间不错。
  维修师傅@person说刹车片跑@2to9万公里就要换。
  座椅比较@mood，长途驾驶不容易累。
  @season电瓶容易亏电，停放太久要注意。
title_concert
  @person乐队@city演唱会
concert
  舞台设计@mood，灯光师@person获得好评。
  @city体育馆外的歌迷从早上@5to10点开始排队。
  鼓手@person敲断了一根鼓槌，大家都笑了。
  @person一开口，全场@1000to9000名观众都安静下来。
  门票@180to980元，@season的巡演还有@3to12场。
  小提琴和钢琴的对话非常@mood。
  新专辑收录@8to15首歌，封面是@city的海边。
  返场唱了@2to4首老歌，大家一起合唱。
title_medicine
  @season养生：@mood生活
medicine
  医生@person建议每天走@3to9千步，早睡早起。
  @season容易感冒，出门要戴口罩，多喝温水。
  体检一次大约@200to900元，@city的医院周末也开门。
  饮食要清淡，少油少盐，多吃蔬菜和豆制品。
  如果咳嗽超过@3to9天，应当及时去看医生。
  按摩脚底的穴位可以缓解疲劳，手法要@mood。
"""
