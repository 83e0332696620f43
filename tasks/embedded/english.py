"""The English words of the embedded tasks and of the pretraining text."""

from __future__ import annotations

from tasks.embedded.language import CorpusStyle, Language, RecordStyle, ReviewStyle, Slot, Topic, Words

_KINDS: Words = ("restaurant", "pub", "bar", "diner", "bistro", "canteen")
_FOODS: Words = ("Chinese", "French", "Greek", "Indian", "Italian", "Korean", "Mexican", "Spanish", "Thai", "Turkish")
_RATINGS: Words = ("excellent", "great", "good", "fair", "average", "poor")
_PRICES: Words = ("low", "moderate", "high")
_SIGHTS: Words = ("bridge", "castle", "harbour", "market", "museum", "park", "river", "station")
_PEOPLE: Words = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Laura", "Paul")
_TOWNS: Words = ("Bath", "Berlin", "Boston", "Dublin", "Lisbon", "London", "Madrid", "Oslo", "Paris", "Rome")
_THINGS: Words = ("bag", "book", "boat", "box", "chair", "clock", "coat", "cup", "lamp", "letter", "map", "watch")
_COLOURS: Words = ("black", "blue", "brown", "green", "grey", "red", "white", "yellow")
_JOBS: Words = ("baker", "doctor", "driver", "farmer", "nurse", "painter", "teacher", "writer")

_RECORDS = RecordStyle(
    name_key="name",
    kind_key="type",
    kinds=_KINDS,
    opening="This is {name}, a {kind}.",
    slots=(
        Slot(key="food", share=0.8, sentences={food: f"It serves {food} food." for food in _FOODS}),
        Slot(key="rating", share=0.7, sentences={rating: f"People say it is {rating}." for rating in _RATINGS}),
        Slot(key="price", share=0.5, sentences={price: f"The prices are {price}." for price in _PRICES}),
        Slot(key="near", share=0.5, sentences={sight: f"You find it near the {sight}." for sight in _SIGHTS}),
        Slot(
            key="family",
            share=0.4,
            sentences={"yes": "You can bring the children.", "no": "It is for adults only."},
        ),
    ),
)

_REVIEWS = ReviewStyle(
    openings=("We went to {name}.", "Last week I was at {name}.", "My friends took me to {name}."),
    subjects=("food", "soup", "bread", "coffee", "service", "waiter", "room", "music", "view", "menu"),
    good=("lovely", "wonderful", "perfect", "a joy", "better than I hoped"),
    bad=("awful", "terrible", "a mess", "a shame", "worse than I feared"),
    judgement="{subject} was {tone}",
    pair="The {first} and the {second}.",
    positive="positive",
    negative="negative",
    mixed="mixed",
)

_PLACES = Topic(
    values={
        "name": (),
        "type": _KINDS,
        "food": _FOODS,
        "rating": _RATINGS,
        "price": _PRICES,
        "near": _SIGHTS,
        "family": ("yes", "no"),
    },
    sentences={
        "name": ("There is a place called {value}.", "This is {value}.", "Everybody here knows {value}."),
        "type": ("It is a {value}.", "It has been a {value} for years."),
        "food": ("The cooks make {value} dishes.", "Come here for {value} food.", "It serves {value} food."),
        "rating": ("Guests call it {value}.", "In short it is {value}.", "People say it is {value}."),
        "price": ("The bill is {value}.", "They ask for {value} prices.", "The prices are {value}."),
        "near": ("It stands by the {value}.", "The {value} is close.", "You find it near the {value}."),
        "family=yes": ("Children are welcome.", "You can bring the children."),
        "family=no": ("Children stay at home.", "It is for adults only."),
    },
)
_PERSONS = Topic(
    values={
        "who": _PEOPLE,
        "job": _JOBS,
        "town": _TOWNS,
        "likes": _FOODS,
        "friend": _PEOPLE,
        "meets at": (),
        "married": ("yes", "no"),
    },
    sentences={
        "who": ("This is about {value}.", "Let me tell you about {value}."),
        "job": ("The work is that of a {value}.", "A {value} has much to do."),
        "town": ("Home is {value}.", "The streets of {value} are old."),
        "likes": ("Dinner is always {value}.", "There is {value} food on the table."),
        "friend": ("A good friend is {value}.", "On Sundays {value} comes."),
        "meets at": ("They meet at {value}.", "You find them at {value}."),
        "married=yes": ("There is a wedding ring.", "They are two."),
        "married=no": ("There is nobody else.", "Living alone is fine."),
    },
)
_GOODS = Topic(
    values={
        "thing": _THINGS,
        "colour": _COLOURS,
        "owner": _PEOPLE,
        "from": _TOWNS,
        "lost near": _SIGHTS,
        "sold at": (),
        "new": ("yes", "no"),
    },
    sentences={
        "thing": ("Somebody wants a {value}.", "Look at this {value}."),
        "colour": ("It is {value}.", "The colour is {value}."),
        "owner": ("It belongs to {value}.", "Ask {value} for it."),
        "from": ("It was made in {value}.", "It came from {value}."),
        "lost near": ("It was lost near the {value}.", "We saw it at the {value}."),
        "sold at": ("They sell it at {value}.", "You can buy one at {value}."),
        "new=yes": ("Nobody has used it.", "It comes from the shop."),
        "new=no": ("Many have used it.", "It has seen better days."),
    },
)

_CORPUS = CorpusStyle(
    notes=(
        "Notes: {notes}\nText:| {text}",
        "{notes}\nIn words:| {text}",
        "Facts: {notes}.| {text}",
        "{notes}\n|{text}",
    ),
    note=("{key}: {value}", "{key} = {value}", "{key}[ {value}]"),
    separators=("; ", ", ", " / "),
    topics=(_PLACES, _PLACES, _PERSONS, _GOODS),
    questions="Notes: {notes}\nQuestions:| {answers}",
    answer=("{key}? {value}.", "The {key} is {value}.", "What is the {key}? It is {value}."),
    review=(
        "{review} All in all| {label}.",
        "Review: {review}\nVerdict:| {label}",
        "{label}:| {review}",
        "{review}\nThis is a| {label} review.",
    ),
    echo=(
        "Say {thing}.| {thing}.",
        "Again: {thing} -| {thing}",
        "Repeat after me: {thing}. Very well:| {thing}.",
        "First {thing} and then| {thing}.",
    ),
    prose=(
        "{person} {act} the {place} with a {quality} {thing}.",
        "It is a {quality} {time}.",
        "The {thing} of {person} is {quality}.",
        "In the {time} {person} {act} the {place}.",
        "Nobody knows why {person} has the {thing}.",
        "{person} and {person} talk about the {place}.",
        "Near the {place} lies a {quality} {thing}.",
        "On a {quality} {time} you can see the {place} and the {place}.",
    ),
    parts={
        "person": _PEOPLE,
        "place": _SIGHTS,
        "thing": _THINGS,
        "quality": (*_COLOURS, "big", "cold", "little", "new", "old", "quiet", "warm", "wild"),
        "time": ("morning", "noon", "evening", "night", "winter", "summer"),
        "act": ("walks to", "runs to", "looks at", "comes from", "dreams of", "waits near"),
    },
)

ENGLISH = Language(
    code="en",
    first_names=(
        *("Wild", "Golden", "Silver", "Quiet", "Happy", "Old", "Green", "Blue", "Little", "Royal"),
        *("Sunny", "Lucky", "Copper", "Stone", "Winter", "Summer", "Hidden", "Velvet", "Rusty", "Merry"),
    ),
    second_names=(
        *("Table", "Garden", "Spoon", "Kitchen", "Lantern", "Fox", "Oven", "Corner", "Crown", "Tree"),
        *("House", "Mill", "Anchor", "Rose", "Wolf", "Barn", "Plate", "Cellar", "Apple", "Lion"),
    ),
    gap=" ",
    records=_RECORDS,
    reviews=_REVIEWS,
    corpus=_CORPUS,
)
