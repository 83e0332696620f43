"""The Chinese words of the embedded tasks and of the pretraining text."""

from __future__ import annotations

from tasks.embedded.language import CorpusStyle, Language, RecordStyle, ReviewStyle, Slot, Topic, Words

_KINDS: Words = ("餐厅", "酒吧", "茶馆", "面馆", "小吃店", "食堂")
_FOODS: Words = ("川菜", "粤菜", "湘菜", "法国菜", "日本菜", "泰国菜", "素菜", "海鲜")
_RATINGS: Words = ("非常好", "很好", "不错", "一般", "很差")
_PRICES: Words = ("很低", "中等", "很高")
_SIGHTS: Words = ("大桥", "公园", "河边", "车站", "市场", "学校", "海港", "古城")
_PEOPLE: Words = ("小明", "小红", "老王", "老李", "阿花", "大山")
_TOWNS: Words = ("北京", "上海", "南京", "西安", "成都", "广州")
_THINGS: Words = ("书", "船", "灯", "茶杯", "大衣", "地图")
_COLOURS: Words = ("黑色", "白色", "红色", "蓝色", "绿色", "金色")

_RECORDS = RecordStyle(
    name_key="名称",
    kind_key="类型",
    kinds=_KINDS,
    opening="这里叫{name}，是一家{kind}。",
    slots=(
        Slot(key="菜系", share=0.8, sentences={food: f"这里有{food}。" for food in _FOODS}),
        Slot(key="评价", share=0.7, sentences={rating: f"大家都说{rating}。" for rating in _RATINGS}),
        Slot(key="价格", share=0.5, sentences={price: f"花的钱{price}。" for price in _PRICES}),
        Slot(key="附近", share=0.5, sentences={sight: f"它就在{sight}旁。" for sight in _SIGHTS}),
        Slot(key="儿童", share=0.4, sentences={"是": "可以带孩子来。", "否": "只给大人开放。"}),
    ),
)

_REVIEWS = ReviewStyle(
    openings=("我们去了{name}。", "上周我在{name}。", "朋友带我去{name}。"),
    subjects=("菜", "汤", "茶", "服务", "房间", "音乐", "风景", "座位"),
    good=("好极了", "真棒", "让人开心", "比想的好"),
    bad=("糟极了", "太烂", "让人难过", "比想的坏"),
    judgement="{subject}{tone}",
    pair="{first}，{second}。",
    positive="好评",
    negative="差评",
    mixed="中评",
)

_PLACES = Topic(
    values={
        "名称": (),
        "类型": _KINDS,
        "菜系": _FOODS,
        "评价": _RATINGS,
        "价格": _PRICES,
        "附近": _SIGHTS,
        "儿童": ("是", "否"),
    },
    sentences={
        "名称": ("这里叫{value}。", "人人知道{value}。"),
        "类型": ("它是一家{value}。", "这是老{value}。"),
        "菜系": ("厨师做{value}。", "想吃{value}就来。", "这里有{value}。"),
        "评价": ("客人觉得{value}。", "总之{value}。", "大家都说{value}。"),
        "价格": ("价钱{value}。", "花费{value}。", "花的钱{value}。"),
        "附近": ("店在{value}边上。", "离{value}很近。", "它就在{value}旁。"),
        "儿童=是": ("欢迎孩子。", "可以带孩子来。"),
        "儿童=否": ("孩子不能来。", "只给大人开放。"),
    },
)
_GOODS = Topic(
    values={
        "东西": _THINGS,
        "颜色": _COLOURS,
        "主人": _PEOPLE,
        "来自": _TOWNS,
        "丢在": _SIGHTS,
        "卖在": (),
        "新的": ("是", "否"),
    },
    sentences={
        "东西": ("有人要{value}。", "你看这{value}。"),
        "颜色": ("它是{value}的。", "颜色是{value}。"),
        "主人": ("它是{value}的。", "请问{value}。"),
        "来自": ("它在{value}做成。", "它来自{value}。"),
        "丢在": ("它丢在{value}。", "我们在{value}见过。"),
        "卖在": ("{value}有卖。", "可以去{value}买。"),
        "新的=是": ("没有人用过。", "刚从店里来。"),
        "新的=否": ("很多人用过。", "它已经很老。"),
    },
)

_CORPUS = CorpusStyle(
    notes=("笔记：{notes}\n正文：|{text}", "{notes}\n就是说：|{text}", "{notes}。|{text}", "{notes}\n|{text}"),
    note=("{key}：{value}", "{key}={value}", "{key}[{value}]"),
    separators=("；", "，", ", "),
    topics=(_PLACES, _PLACES, _GOODS),
    questions="笔记：{notes}\n问答：|{answers}",
    answer=("{key}？{value}。", "{key}是{value}。", "{key}是什么？是{value}。"),
    review=(
        "{review}总之是|{label}。",
        "评论：{review}\n结论：|{label}",
        "{label}：|{review}",
        "{review}\n这是|{label}。",
    ),
    echo=(
        "请说{thing}。|{thing}。",
        "{thing}-|{thing}",
        "跟我说：{thing}。很好：|{thing}。",
        "先{thing}，再|{thing}。",
    ),
    prose=(
        "{person}{act}{place}，带着{quality}{thing}。",
        "这是{quality}{time}。",
        "{person}的{thing}是{quality}。",
        "{time}里{person}{act}{place}。",
        "没有人知道{person}有{thing}。",
        "{person}和{person}在说{place}。",
        "{place}旁有{quality}{thing}。",
    ),
    parts={
        "person": _PEOPLE,
        "place": _SIGHTS,
        "thing": _THINGS,
        "quality": ("黑的", "白的", "红的", "大的", "小的", "新的", "老的"),
        "time": ("早上", "中午", "晚上", "冬天", "夏天"),
        "act": ("走到", "看见", "来自", "想着"),
    },
)

CHINESE = Language(
    code="zh",
    first_names=(
        *("红叶", "金色", "小山", "大海", "春风", "夏日", "秋月", "冬雪", "白云", "青石"),
        *("老王", "东城", "西山", "南海", "北河", "花香", "长安", "平安", "开心", "好运"),
    ),
    second_names=(
        *("花园", "小馆", "酒家", "饭店", "茶楼", "厨房", "客栈", "人家", "小屋", "食府"),
        *("大院", "竹园", "梅园", "水乡", "田家", "灯楼", "书房", "渔家", "美食", "天地"),
    ),
    gap="",
    records=_RECORDS,
    reviews=_REVIEWS,
    corpus=_CORPUS,
)
