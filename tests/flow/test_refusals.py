"""Everything that is refused when a pipeline is compiled: by which error, at which line, with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.flow import errors
from tests.flow.samples import load_text

HEADER = """\
import asyncio
import random
import polars as pl
import polars.selectors as cs
import headrace as hr
from headrace import col, lit, when

def double(frame): return frame
def row(row): return row
async def later(row): return row

class Range(hr.Aggregator):
    type = "double"
    def init(self): return None
    def add(self, state, value): return value
    def result(self, state): return state

class Whole(Range):
    def merge(self, left, right): return left

class Untyped:
    pass

@hr.pipeline(owner="shop")
def shop():
    orders = hr.stream("orders")
    customers = hr.table("customers")
    clicks = hr.stream("clicks")
    visits = hr.stream("visits")
"""


def refusal(folder: Path, lines: str) -> HeadraceError:
    """The error of a pipeline whose body is `lines`; its line is the one marked `# <-`."""
    body = "".join(f"    {line}\n" for line in lines.strip("\n").split("\n"))
    with pytest.raises(HeadraceError) as caught:
        load_text(folder, HEADER + body)
    return caught.value


def marked_line(lines: str) -> int:
    rows = [number for number, line in enumerate((HEADER + lines.strip("\n")).split("\n"), 1) if "# <-" in line]
    assert len(rows) == 1
    return rows[0]


ROW_DEPENDENT = [
    ("col('amount') - col('amount').mean()", "aggregates over rows", "group_by"),
    ("col('amount').shift()", "shift", "batches"),
    ("1 + col('amount').shift(1) * 2", "shift", "batches"),
    ("col('amount').cum_sum()", "cum_sum", ""),
    ("col('amount').sum().over('status')", "over", "group_by"),
    ("col('amount').rank()", "rank", ""),
    ("col('amount').sort()", "sorts", ""),
    ("col('amount').sort_by('quantity')", "sorts", ""),
    ("col('amount').forward_fill()", "fill_null", ""),
    ("col('amount').fill_null(strategy='mean')", "fill_null", ""),
    ("col('amount').diff()", "diff", ""),
    ("col('amount').head(1)", "by their place", ""),
    ("col('amount').get(0)", "by their place", ""),
    ("col('amount').gather([0])", "by their place", ""),
    ("col('amount').first()", "aggregates over rows", ""),
    ("col('amount').unique()", "unique", ""),
    ("col('amount').drop_nulls()", "drop_nulls", ".filter"),
    ("col('amount').filter(col('paid'))", "filter", ".filter"),
    ("col('items').explode()", "explode", ".explode"),
    ("col('items').list.explode()", "explode", ".explode"),
    ("col('amount').rolling_mean(2)", "looks at other rows", ""),
    ("col('amount').sum().rolling('placed_at', period='1h')", "rolling", "hopping"),
    ("col('amount').is_duplicated()", "is_duplicated", ""),
    ("col('amount').n_unique()", "aggregates over rows", ""),
    ("col('amount').reverse()", "reverse", ""),
    ("col('amount').interpolate()", "interpolate", ""),
    ("col('amount').value_counts()", "value_counts", ""),
    ("col('paid').any()", "any", ""),
    ("col('quantity').is_in(col('customer_id'))", "is_in", ""),
    ("col('quantity').replace(col('customer_id'), 1)", "replace", ""),
    ("pl.len()", "counts rows", "hr.count()"),
    ("pl.int_range(pl.len())", "int_range", ""),
    ("pl.lit(pl.Series([1, 2]))", "Series", ".is_in"),
    ("col('product_id').str.to_datetime()", "guesses", "format"),
    ("col('product_id').str.to_date()", "guesses", "format"),
    ("when(col('amount') > col('amount').max()).then(1).otherwise(0)", "aggregates over rows", ""),
    ("pl.struct(a=col('amount').cum_sum())", "cum_sum", ""),
    ("cs.numeric().mean()", "aggregates over rows", ""),
    ("col('amount').cast(pl.Float32).shift().alias('x')", "shift", ""),
]


@pytest.mark.parametrize(("expression", "words", "cure"), ROW_DEPENDENT)
@pytest.mark.parametrize("step", ["with_columns(x=pl.struct({}))", "select({})", "filter(({}).is_null())"])
def test_row_dependent_expressions_are_refused(
    tmp_path: Path, expression: str, words: str, cure: str, step: str
) -> None:
    """An expression that looks at other rows is refused in every row-wise step, wherever it hides."""
    line = f"orders.{step.format(expression)}.to('out')  # <-"
    error = refusal(tmp_path, line)
    assert isinstance(error, errors.RowDependent), error
    assert error.where is not None
    assert error.where.line == marked_line(line)
    assert words in error.message
    assert cure in error.cure


NOT_REPEATABLE = [
    "col('amount').sample(1)",
    "col('amount').shuffle(seed=1)",
    "col('items').list.sample(1, seed=1)",
    "col('items').list.eval(pl.element().shuffle())",
]


@pytest.mark.parametrize("expression", NOT_REPEATABLE)
def test_random_expressions_are_refused(tmp_path: Path, expression: str) -> None:
    """What would differ in a replay is refused, seeded or not."""
    error = refusal(tmp_path, f"orders.with_columns(x={expression}).to('out')")
    assert isinstance(error, errors.NotRepeatable), error


PYTHON = [
    "col('amount').map_elements(lambda x: x, return_dtype=pl.Float64)",
    "col('amount').map_batches(lambda s: s)",
    "pl.fold(0, lambda a, b: a + b, [col('amount'), col('quantity')])",
    "col('amount').name.map(lambda name: name + '_x')",
    "1 + col('amount').map_batches(lambda s: s) * 2",
]


@pytest.mark.parametrize("expression", PYTHON)
def test_python_in_expressions_is_refused(tmp_path: Path, expression: str) -> None:
    """A plan is data, so a lambda in an expression is refused, with the step that takes it."""
    error = refusal(tmp_path, f"orders.select({expression}).to('out')  # <-")
    assert isinstance(error, errors.PythonInExpression), error
    assert ".map_batches" in error.cure


E = errors
REFUSED: list[tuple[type[HeadraceError], str, str, str]] = [
    # sources
    (E.UnknownTopic, "hr.stream('order').select('x').to('out')  # <-", "'order'", "did you mean 'orders'?"),
    (E.UnknownTopic, "hr.table('nothing.like.it')  # <-", "nothing.like.it", "contracts/nothing.like.it.yaml"),
    (E.StepRefused, "hr.stream('customers')  # <-", "rows of a table", "hr.table('customers')"),
    (E.StepRefused, "hr.stream('products')  # <-", "kind change", "hr.table('products')"),
    (E.StepRefused, "hr.table('orders')  # <-", "kind event", "hr.stream('orders')"),
    (E.OptionInvalid, "hr.table('customers', history='soon')  # <-", "'soon' is not a duration", "number and a unit"),
    (
        E.OptionInvalid,
        "hr.table('customers', history='1d')\nhr.table('customers', history='2d')  # <-",
        "history of 'customers'",
        "same history",
    ),
    # columns and types
    (E.UnknownColumn, "orders.select('amont')  # <-", "no column 'amont'", "did you mean 'amount'?"),
    (E.UnknownColumn, "orders.filter(col('zzz') > 1)  # <-", "no column 'zzz'", "the columns here are order_id"),
    (E.UnknownColumn, "orders.select(pl.col('amount', 'amont'))  # <-", "no column 'amont'", ""),
    (E.UnknownColumn, "orders.drop('amont')  # <-", "no column 'amont'", "did you mean"),
    (E.UnknownColumn, "orders.rename({'amont': 'x'})  # <-", "no column 'amont'", "did you mean"),
    (E.UnknownColumn, "orders.explode('item')  # <-", "no column 'item'", "did you mean 'items'?"),
    (E.UnknownColumn, "orders.group_by('stat')  # <-", "no column 'stat'", "did you mean 'status'?"),
    (E.UnknownColumn, "orders.rekey('customer')  # <-", "no column 'customer'", "did you mean 'customer_id'?"),
    (E.UnknownColumn, "orders.filter(amont=1)  # <-", "no column 'amont'", "did you mean"),
    (E.UnknownColumn, "orders.group_by('status').agg(x=hr.sum('amont'))  # <-", "no column 'amont'", "did you mean"),
    (E.UnknownColumn, "orders.drop('paid').to('out', key='oder_id')  # <-", "no column 'oder_id'", "did you mean"),
    (E.TypeClash, "orders.filter(col('amount'))  # <-", "must be true or false", ""),
    (E.TypeClash, "orders.filter('amount')  # <-", 'col("amount") (amount) is Float64', ""),
    (E.TypeClash, "orders.filter(3)  # <-", "int is no expression", ""),
    (E.TypeClash, "orders.filter()  # <-", "filter needs a predicate", ""),
    (E.TypeClash, "orders.select(col('order_id').dt.year())  # <-", "`year` operation not supported", ""),
    (E.TypeClash, "orders.select(col('order_id') + col('amount'))  # <-", "arithmetic on dtypes", "cast"),
    (E.TypeClash, "orders.select(col('order_id') > col('amount'))  # <-", "cannot compare string", "cast"),
    (E.TypeClash, "orders.with_columns(x=None)  # <-", "type of column 'x' cannot be told", "lit(None).cast"),
    (E.TypeClash, "orders.with_columns(x=col('placed_at') - col('placed_at'))  # <-", "Duration", "total"),
    (
        E.TypeClash,
        "orders.with_columns(x=col('placed_at').dt.convert_time_zone('Europe/Berlin'))  # <-",
        "time zone Europe/Berlin",
        "replace_time_zone",
    ),
    (E.TypeClash, "orders.with_columns(x=pl.struct(a='paid').struct.field('b'))  # <-", "no field 'b'", ""),
    (E.TypeClash, "orders.with_columns(cs.numeric() + (cs.string() | cs.boolean()))  # <-", "", ""),
    (E.PipelineInvalid, "orders.with_columns(x=lit(float('nan')))  # <-", "NaN", "lit('NaN')"),
    (E.TypeClash, "orders.explode('amount')  # <-", "no list", ""),
    (E.TypeClash, "orders.group_by('amount')  # <-", "Float64 is no key", "whole number or to text"),
    (E.TypeClash, "orders.group_by('items')  # <-", "is no key", ""),
    (E.TypeClash, "orders.rekey('amount')  # <-", "is no key", ""),
    # names
    (E.NameInvalid, "orders.with_columns(__time_ms=1)  # <-", "'__time_ms' begins with '__'", ""),
    (E.NameInvalid, "orders.select(col('amount').alias('the amount'))  # <-", "'the amount' cannot name", ".alias"),
    (E.DuplicateName, "orders.select('amount', col('quantity').alias('amount'))  # <-", "a column 'amount'", ".alias"),
    (E.DuplicateName, "orders.rename({'amount': 'quantity'})  # <-", "two columns are called 'quantity'", ""),
    (E.NameInvalid, "orders.filter('paid').named('a step')  # <-", "'a step' cannot name", "letters"),
    (
        E.DuplicateName,
        "(orders.filter('paid').named('x')\n    .filter('paid').named('x')  # <-\n    .to('out'))",
        "two steps are called 'x'",
        "another name",
    ),
    (E.NameInvalid, "orders.filter('paid').to('a topic')  # <-", "'a topic' cannot name a topic", ""),
    (E.NameInvalid, "orders.filter('paid').to('__x')  # <-", "begins with '__'", ""),
    # joins
    (
        E.TypeClash,
        "orders.with_columns(customer_id=col('customer_id').cast(pl.String)).join(customers, on='customer_id')  # <-",
        "'customer_id' is String, the table's key 'customer_id' is Int64",
        "cast it first",
    ),
    (E.StepRefused, "orders.join(customers, on='status')  # <-", "keyed by customer_id", "join on customer_id"),
    (E.OptionInvalid, "orders.join(clicks, on='customer_id')  # <-", "the time between", "within"),
    (E.TypeClash, "orders.join('customers', on='customer_id')  # <-", "not str", "hr.table"),
    (E.MissingEventTime, "orders.join(clicks, on='customer_id', within='5m')  # <-", "'clicks'", "time:"),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='5m', after='1m')  # <-", "both within", "one way"),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='500d')  # <-", "within is", "at most"),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', after='-1s')  # <-", "after", ""),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='1m', grace='x')  # <-", "grace", ""),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='1m', idle_close='0s')  # <-", "idle_close", ""),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='1m', late='drop')  # <-", "'drop'", "dead_letter"),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='1m', how='cross')  # <-", "'cross'", "outer"),
    (E.OptionInvalid, "orders.join(visits, on='customer_id', within='1m', as_of=True)  # <-", "for tables", "within"),
    (E.OptionInvalid, "orders.join(visits, within='1m')  # <-", "as many columns left as right", "on="),
    (E.OptionInvalid, "orders.join(visits, left_on='customer_id', within='1m')  # <-", "as many columns", "right_on"),
    (E.OptionInvalid, "orders.join(visits, on=['page', 'page'], within='1m')  # <-", "twice", "once"),
    (E.UnknownColumn, "orders.join(visits, on='order_id', within='1m')  # <-", "in the right stream", ""),
    (E.UnknownColumn, "orders.join(visits, on='page', within='1m')  # <-", "in the left stream", ""),
    (
        E.TypeClash,
        "orders.join(visits, left_on='order_id', right_on='customer_id', within='1m')  # <-",
        "Int64",
        "cast",
    ),
    (E.TypeClash, "orders.join(visits, left_on='amount', right_on='seconds', within='1m')  # <-", "Float", "cast"),
    (E.TypeClash, "visits.join(visits, on='seconds', within='1m')  # <-", "is no key", "whole number"),
    (
        E.DuplicateName,
        "orders.with_columns(page=lit('x'), page_right=lit('y')).join(visits, on='customer_id', within='1m')  # <-",
        "'page_right'",
        "suffix",
    ),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', within='1m')  # <-", "within is for joins of two", ""),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', late='count')  # <-", "late is for joins of two", ""),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', grace='1m')  # <-", "as of a time", "as_of=True"),
    (
        E.OptionInvalid,
        "orders.join(hr.table('customers', history='1m'), on='customer_id', as_of=True, grace='2m')  # <-",
        "history 60000 ms",
        "longer history",
    ),
    (E.OptionInvalid, "orders.join(hr.broadcast('customers'), on='customer_id', grace='1m')  # <-", "grace is for", ""),
    (E.OptionInvalid, "orders.join(hr.broadcast('customers'), on='customer_id', as_of=True)  # <-", "no history", ""),
    (E.OptionInvalid, "orders.join(customers)  # <-", "as many columns left as right", "customer_id"),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', left_on='x')  # <-", "both on and", ""),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', how='outer')  # <-", "'outer'", "left"),
    (E.OptionInvalid, "orders.join(customers, on='customer_id', max_wait='1 day')  # <-", "max_wait", ""),
    (
        E.OptionInvalid,
        "orders.join(customers, on='customer_id', as_of=True)  # <-",
        "keeps the latest only",
        "history=",
    ),
    (
        E.MissingEventTime,
        "clicks.join(hr.table('customers', history='1d'), on='customer_id', as_of=True)  # <-",
        "contract of 'clicks'",
        "time:",
    ),
    (E.UnknownColumn, "orders.join(customers, left_on='custmer_id', right_on='customer_id')  # <-", "'custmer_id'", ""),
    (E.UnknownColumn, "orders.join(customers, left_on='customer_id', right_on='id')  # <-", "in the table", ""),
    (
        E.DuplicateName,
        "orders.with_columns(status_right=1).join(customers, on='customer_id')  # <-",
        "a second 'status_right'",
        "suffix",
    ),
    (
        E.StepRefused,
        "orders.join(orders.group_by('customer_id').agg(n=hr.count()), on='customer_id')  # <-",
        "aggregates cannot be joined in the same pipeline",
        "another pipeline",
    ),
    # tables
    (E.StepRefused, "customers.group_by('status').window(hr.tumbling('1h'))  # <-", "has no windows", "changes()"),
    (E.StepRefused, "customers.group_by('status').top_n(3, by='name')  # <-", "streams only", "top_k"),
    (E.OptionInvalid, "customers.group_by()  # <-", "needs a column", "constant"),
    (E.OptionInvalid, "customers.group_by('status').agg(keep_empty=hr.count())  # <-", "keep_empty is", "an option"),
    (E.StepRefused, "customers.window(hr.tumbling('1h'))  # <-", "no step 'window'", "changes()"),
    (E.OptionInvalid, "customers.changes(deleted=True)  # <-", "deleted is True", "name a column"),
    (E.DuplicateName, "customers.changes(deleted='name')  # <-", "two columns are called 'name'", ""),
    (E.OptionInvalid, "customers.expire('0s')  # <-", "ttl is 0 ms", "at least 1 ms"),
    (E.OptionInvalid, "hr.table('customers', ttl='soon')  # <-", "ttl", ""),
    (E.OptionInvalid, "orders.as_table()  # <-", "a table needs a key", ""),
    (E.UnknownColumn, "orders.as_table('order')  # <-", "no column 'order'", "order_id"),
    (E.DuplicateName, "orders.as_table('order_id', 'order_id')  # <-", "two columns", ""),
    (E.TypeClash, "orders.as_table('items')  # <-", "is no key", ""),
    (E.TypeClash, "orders.as_table('order_id', deleted=col('quantity'))  # <-", "true or false", ""),
    (
        E.StepRefused,
        "orders.join(hr.table('customers', ttl='7d'), on='customer_id')  # <-",
        "expire cannot be looked up",
        "another pipeline",
    ),
    (E.StepRefused, "customers.select('name')  # <-", "loses customer_id", "keep the columns"),
    (E.StepRefused, "customers.with_columns(customer_id=col('customer_id') + 1)  # <-", "keeps its key", ""),
    # merge, branch, map
    (E.TypeClash, "orders.merge(clicks)  # <-", "a column 'order_id'", "same columns"),
    (
        E.TypeClash,
        "orders.select('quantity').merge(orders.select(quantity=col('amount')))  # <-",
        "'quantity' is Int32 in one stream and Float64",
        "cast",
    ),
    (E.StepRefused, "orders.merge(customers)  # <-", "not Table", ""),
    (E.OptionInvalid, "orders.merge()  # <-", "another stream", ""),
    (E.OptionInvalid, "orders.branch()  # <-", "1 to 100", ""),
    (E.TypeClash, "orders.branch('paid', 'amount')  # <-", 'col("amount") (amount) is Float64', ""),
    (E.StepRefused, "orders.merge(orders.rekey('customer_id')).to('out')  # <-", "moved to another key", "rekey"),
    (E.OptionInvalid, "orders.map(row, schema={})  # <-", "columns of its result", "schema="),
    (E.TypeClash, "orders.map(row, schema={'x': 'strng'})  # <-", "column 'x'", "string"),
    (E.TypeClash, "orders.map(row, schema={'x': object()})  # <-", "column 'x'", "Polars type"),
    (E.TypeClash, "orders.map(3, schema={'x': int})  # <-", "needs a function, not int", ""),
    (E.TypeClash, "orders.map(later, schema={'x': int})  # <-", "cannot await", ".map_async"),
    (E.TypeClash, "orders.map_async(row, schema={'x': int})  # <-", "coroutine function", "async def"),
    (E.NameInvalid, "orders.map(row, schema={'__x': int})  # <-", "'__x'", ""),
    (E.OptionInvalid, "orders.map_async(later, schema={'x': int}, concurrency=0)  # <-", "concurrency is 0", ""),
    (E.OptionInvalid, "orders.map_async(later, schema={'x': int}, retries=-1)  # <-", "retries is -1", ""),
    (E.OptionInvalid, "orders.map_async(later, schema={'x': int}, timeout='1h')  # <-", "timeout", ""),
    # windows and aggregates
    (
        E.MissingEventTime,
        "clicks.group_by('page').window(hr.tumbling('1h'))  # <-",
        "contract of 'clicks' does not say what event time is",
        "time: $timestamp",
    ),
    (
        E.MissingEventTime,
        "orders.select('customer_id').merge(clicks.select('customer_id')).group_by('customer_id')"
        ".window(hr.tumbling('1h'))  # <-",
        "'clicks'",
        "",
    ),
    (E.OptionInvalid, "orders.group_by('status').window('1h')  # <-", "'1h' is no window", "hr.tumbling"),
    (E.OptionInvalid, "hr.tumbling('0s')  # <-", "size is 0 ms", "at least 1 ms"),
    (E.OptionInvalid, "hr.tumbling('1')  # <-", "size: '1' is not a duration", ""),
    (E.OptionInvalid, "hr.hopping('1h', '2h')  # <-", "longer than size", "at most size"),
    (E.OptionInvalid, "hr.hopping('1d', '1ms')  # <-", "would be in 86400000 windows", ""),
    (E.OptionInvalid, "hr.session('0ms')  # <-", "gap is 0 ms", ""),
    (E.OptionInvalid, "orders.group_by()  # <-", "group_by needs a column", ""),
    (E.OptionInvalid, "orders.group_by('status').agg()  # <-", "agg needs an aggregate", "hr.count()"),
    (E.OptionInvalid, "orders.group_by('status').agg(hr.count())  # <-", "needs a name", "flights=hr.count()"),
    (E.DuplicateName, "orders.group_by('status').agg(status=hr.count())  # <-", "two columns are called 'status'", ""),
    (
        E.DuplicateName,
        "orders.group_by('status').window(hr.tumbling('1h')).agg(window_start=hr.count())  # <-",
        "two columns are called 'window_start'",
        "",
    ),
    (E.Unmergeable, "orders.group_by('status').agg(x=lambda s: 1)  # <-", "x is a function", "hr.Aggregator"),
    (E.Unmergeable, "orders.group_by('status').agg(x=col('amount').mean())  # <-", "expression", "hr.mean('amount')"),
    (
        E.Unmergeable,
        "orders.group_by('status').agg(x=col('amount').n_unique())  # <-",
        "",
        "hr.count_distinct('amount')",
    ),
    (E.Unmergeable, "orders.group_by('status').agg(x=pl.len().alias('n'))  # <-", "", "hr.count()"),
    (E.Unmergeable, "orders.group_by('status').agg(x=col('amount') * 2)  # <-", "", "hr.sum(col('a') * 2)"),
    (E.Unmergeable, "orders.group_by('status').agg(x=Range('amount'))  # <-", "Range has no method merge", "add merge"),
    (E.Unmergeable, "orders.group_by('status').agg(x=Whole)  # <-", "the class Whole", "Whole('column')"),
    (E.Unmergeable, "orders.group_by('status').agg(x=Untyped())  # <-", "Untyped", ""),
    (E.Unmergeable, "orders.group_by('status').agg(x=3)  # <-", "int 3", "hr.count()"),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.sum('order_id'))  # <-", "sum takes numbers", "cast"),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.mean('placed_at'))  # <-", "mean takes numbers", ""),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.max('items'))  # <-", "needs values with an order", ""),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.quantile('amount', 95))  # <-", "not between 0 and 1", ""),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.top_k('amount', 0))  # <-", "k is 0", ""),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.sum(3))  # <-", "3 is no column", ""),
    (E.TypeClash, "orders.group_by('status').agg(x=hr.sum(cs.numeric()))  # <-", "takes one column", ""),
    (E.RowDependent, "orders.group_by('status').agg(x=hr.sum(col('amount').shift()))  # <-", "shift", ""),
    (E.RowDependent, "orders.group_by(col('amount').rank().cast(int))  # <-", "rank", ""),
    # sinks
    (E.NothingWritten, "orders.to('copy')  # <-", "only copies 'orders'", "read 'orders' directly"),
    (E.TopicConflict, "orders.filter('paid').to('orders')  # <-", "is read by this pipeline", "another topic"),
    (
        E.TopicConflict,
        "orders.filter('paid').to('out')\nclicks.select('page').to('out')  # <-",
        "'out' is written by line",
        "merge",
    ),
    (E.OptionInvalid, "orders.filter('paid').to('out', emit='final')  # <-", "results of an aggregate", "leave it out"),
    (E.OptionInvalid, "orders.group_by('status').agg(n=hr.count()).to('o', emit='final')  # <-", "needs a window", ""),
    (E.OptionInvalid, "orders.group_by('status').agg(n=hr.count()).to('o', emit='often')  # <-", "'often'", "final"),
    (E.OptionInvalid, "customers.filter(status='x').to('o', key='name')  # <-", "key is customer_id", "leave key out"),
    (E.OptionInvalid, "customers.filter(status='x').to('o', kind='event')  # <-", "replace each other", ""),
    (E.OptionInvalid, "orders.drop('order_id').to('o', kind='table')  # <-", "needs a key", "key="),
    (E.OptionInvalid, "orders.filter('paid').to('o', kind='log')  # <-", "'log'", "event"),
    (
        E.TypeClash,
        "orders.filter('paid').to('o', key='customer_id', key_encoding='string')  # <-",
        "one text column",
        "",
    ),
    (
        E.OptionInvalid,
        "a = orders.group_by('status').window(hr.tumbling('1h')).agg(n=hr.count())\n"
        "a.to('one', emit='final')\na.to('two', emit='updates')  # <-",
        "differ in emit",
        "aggregate twice",
    ),
    (E.PipelineInvalid, "return orders.filter('paid')", "returns a stream or table", ".to(topic)"),
    (E.PipelineInvalid, "orders.filter('paid').to('o')\nreturn 3", "returns int", ".to(topic)"),
    (E.NothingWritten, "orders.filter('paid')", "'shop' writes nothing", ".to(topic)"),
    # the user's own mistakes
    (E.UserCodeFailed, "x = 1 / 0  # <-", "ZeroDivisionError: division by zero", ""),
    (E.UserCodeFailed, "orders.fliter('paid')  # <-", "AttributeError", ""),
    (E.UserCodeFailed, "customers.fliter('paid')  # <-", "a table has no 'fliter'", ""),
    (E.UserCodeFailed, "raise SystemExit('bye')  # <-", "SystemExit: bye", ""),
]


@pytest.mark.parametrize(("kind", "lines", "message", "cure"), REFUSED, ids=[f"{e[1][:60]}" for e in REFUSED])
def test_mistakes_are_refused(tmp_path: Path, kind: type[HeadraceError], lines: str, message: str, cure: str) -> None:
    """Each mistake is its typed error, with the user's file and line, the culprit in the message and a cure."""
    error = refusal(tmp_path, lines)
    assert type(error) is kind, error
    assert message in error.message
    assert cure in error.cure
    assert error.where is not None
    assert error.where.file == str(tmp_path / "pipelines.py")
    if "# <-" in lines:
        assert error.where.line == marked_line(lines)


def test_errors_have_codes_of_their_own() -> None:
    """Every refusal can be told from the others by its stable code."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HeadraceError)]
    codes = [kind.code for kind in kinds if kind is not HeadraceError]
    assert len(set(codes)) == len(codes)
    assert all(code.startswith("flow.") for code in codes)
